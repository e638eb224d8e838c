import pytest

from pipelines.remote import following, retrying


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    """No test waits for a server, and none sees the login of who runs it."""
    monkeypatch.setattr(retrying, "PAUSES", (0.01, 0.01, 0.01))
    monkeypatch.setattr(following, "EVERY", 0.01)
    names = "KFP_ENDPOINT KFP_TOKEN KFP_TOKEN_FILE KFP_COOKIE KFP_CA_FILE KFP_IAP_CLIENT_ID KFP_NAMESPACE"
    google = "KF_PIPELINES_ENDPOINT KF_PIPELINES_UI_ENDPOINT GOOGLE_CLOUD_PROJECT GOOGLE_CLOUD_REGION"
    for name in f"{names} {google} GOOGLE_OAUTH_ACCESS_TOKEN GOOGLE_APPLICATION_CREDENTIALS".split():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TFSLIM_IMAGE", "registry.example.com/tfslim")

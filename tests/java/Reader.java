import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Scanner;
import java.util.StringJoiner;
import org.tensorflow.SavedModelBundle;
import org.tensorflow.Tensor;
import org.tensorflow.TensorFlow;
import org.tensorflow.ndarray.NdArray;
import org.tensorflow.ndarray.NdArrays;
import org.tensorflow.ndarray.Shape;
import org.tensorflow.types.TBool;
import org.tensorflow.types.TFloat32;
import org.tensorflow.types.TInt32;
import org.tensorflow.types.TInt64;
import org.tensorflow.types.TString;

/**
 * Loads SavedModels with TensorFlow's Java API and asks them what stdin says; the answers go to stdout as JSON.
 *
 * <p>"model DIRECTORY" loads one; "input KEY DTYPE DIMENSIONS VALUES" adds an input to the next request, dimensions with
 * commas between (or "-" for a scalar), values too, strings in base64; "request SIGNATURE" sends it. A key may not hold
 * a blank.
 */
public final class Reader {
  public static void main(String[] arguments) {
    String before = "{\"tensorflow\": \"" + TensorFlow.version() + "\", \"answers\": [";
    StringJoiner answers = new StringJoiner(",\n", before, "]}");
    SavedModelBundle model = null;
    Map<String, Tensor> inputs = new LinkedHashMap<>();
    Scanner lines = new Scanner(System.in, StandardCharsets.UTF_8).useDelimiter("\n");
    while (lines.hasNext()) {
      String[] words = lines.next().split(" ", -1);
      switch (words[0]) {
        case "model":
          model = SavedModelBundle.load(words[1], "serve");
          break;
        case "input":
          inputs.put(words[1], tensor(words[2], words[3], words[4].split(",", -1)));
          break;
        default:
          answers.add(answer(model, words[1], inputs));
          inputs.clear();
      }
    }
    System.out.println(answers);
  }

  private static String answer(SavedModelBundle model, String signature, Map<String, Tensor> inputs) {
    StringJoiner outputs = new StringJoiner(", ", "{", "}");
    for (Map.Entry<String, Tensor> output : model.function(signature).call(inputs)) {
      outputs.add("\"" + output.getKey() + "\": " + json(output.getValue()));
    }
    return outputs.toString();
  }

  private static Tensor tensor(String dtype, String dimensions, String[] values) {
    Shape shape = dimensions.equals("-") ? Shape.scalar() : Shape.of(longs(dimensions.split(",")));
    int[] next = {0};
    switch (dtype) {
      case "float32":
        return TFloat32.tensorOf(shape, t -> t.scalars().forEach(s -> s.setFloat(Float.parseFloat(values[next[0]++]))));
      case "int32":
        return TInt32.tensorOf(shape, t -> t.scalars().forEach(s -> s.setInt(Integer.parseInt(values[next[0]++]))));
      case "int64":
        return TInt64.tensorOf(shape, t -> t.scalars().forEach(s -> s.setLong(Long.parseLong(values[next[0]++]))));
      case "object":
        NdArray<byte[]> strings = NdArrays.ofObjects(byte[].class, shape);
        strings.scalars().forEach(s -> s.setObject(Base64.getDecoder().decode(values[next[0]++])));
        return TString.tensorOfBytes(strings);
      default:
        throw new IllegalArgumentException(dtype);
    }
  }

  private static String json(Tensor tensor) {
    StringJoiner values = new StringJoiner(", ", "[", "]");
    String dtype = tensor.dataType().name();
    if (tensor instanceof TFloat32) {
      ((TFloat32) tensor).scalars().forEach(s -> values.add("\"" + s.getFloat() + "\""));
    } else if (tensor instanceof TInt32) {
      ((TInt32) tensor).scalars().forEach(s -> values.add("" + s.getInt()));
    } else if (tensor instanceof TInt64) {
      ((TInt64) tensor).scalars().forEach(s -> values.add("" + s.getLong()));
    } else if (tensor instanceof TBool) {
      ((TBool) tensor).scalars().forEach(s -> values.add("" + s.getBoolean()));
    } else {
      ((TString) tensor).asBytes().scalars()
          .forEach(s -> values.add("\"" + Base64.getEncoder().encodeToString(s.getObject()) + "\""));
    }
    StringJoiner sizes = new StringJoiner(", ", "[", "]");
    for (long size : tensor.shape().asArray()) {
      sizes.add("" + size);
    }
    return "{\"dtype\": \"" + dtype + "\", \"shape\": " + sizes + ", \"values\": " + values + "}";
  }

  private static long[] longs(String[] words) {
    long[] numbers = new long[words.length];
    for (int i = 0; i < words.length; i++) {
      numbers[i] = Long.parseLong(words[i]);
    }
    return numbers;
  }
}

// What an SQL92 condition costs the reference to evaluate; the same condition and properties as `bench sql`.
// Its broker keeps properties as one text and makes a map of it for each message: both are told, with and without that.
//
//     java -cp "$REF_LIB/*" bench/java/SqlFilter.java

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.rocketmq.common.message.MessageDecoder;
import org.apache.rocketmq.filter.FilterFactory;
import org.apache.rocketmq.filter.expression.EvaluationContext;
import org.apache.rocketmq.filter.expression.Expression;

public class SqlFilter {
    record Properties(Map<String, String> of) implements EvaluationContext {
        @Override
        public Object get(String name) {
            return of.get(name);
        }

        @Override
        public Map<String, Object> keyValues() {
            return new HashMap<>(of);
        }
    }

    static Map<String, String> message(int n) {
        Map<String, String> properties = new HashMap<>();
        properties.put("UNIQ_KEY", "01AABBCCDDEEFF00110022334455667788");
        properties.put("TAGS", "order");
        properties.put("KEYS", "7ABCDEF7");
        properties.put("customer", Integer.toString(n));
        properties.put("region", new String[] {"eu", "us", "asia"}[n % 3]);
        properties.put("amount", Integer.toString(n % 1000));
        properties.put("level", Integer.toString(n % 7));
        properties.put("source", "shop");
        properties.put("__BORNHOST", "bench");
        return properties;
    }

    static long passed;

    static double rate(Expression expression, List<String> texts, List<Map<String, String>> maps, double seconds)
            throws Exception {
        long done = 0;
        long begin = System.nanoTime();
        long end = begin + (long) (seconds * 1e9);
        while (System.nanoTime() < end) {
            for (int n = 0; n < texts.size(); n++) {
                Map<String, String> of = maps == null ? MessageDecoder.string2messageProperties(texts.get(n)) : maps.get(n);
                if (Boolean.TRUE.equals(expression.evaluate(new Properties(of)))) {
                    passed++;
                }
            }
            done += texts.size();
        }
        return done / ((System.nanoTime() - begin) / 1e9);
    }

    public static void main(String[] arguments) throws Exception {
        String condition = arguments.length > 0 ? arguments[0] : "region = 'eu' AND amount > 250 AND level <= 3";
        Expression expression = FilterFactory.INSTANCE.get("SQL92").compile(condition);
        List<Map<String, String>> maps = new ArrayList<>();
        List<String> texts = new ArrayList<>();
        for (int n = 0; n < 1000; n++) {
            maps.add(message(n));
            texts.add(MessageDecoder.messageProperties2String(message(n)));
        }
        // Warm up both ways.
        rate(expression, texts, maps, 5);
        rate(expression, texts, null, 5);
        System.out.printf("%s%n", condition);
        System.out.printf("map made before: %,.0f evaluations per second%n", rate(expression, texts, maps, 5));
        System.out.printf("map made for each, as its broker does: %,.0f evaluations per second%n", rate(expression, texts, null, 5));
    }
}

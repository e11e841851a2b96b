package martlet;

import com.google.gson.Gson;
import com.google.gson.JsonObject;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.HexFormat;
import org.apache.rocketmq.client.apis.message.MessageView;

/** One JSON object per line on the real standard output; whatever else prints goes to standard error. */
final class Events {
    static final Gson GSON = new Gson();
    private final PrintStream out;

    Events() {
        out = System.out;
        System.setOut(System.err);
    }

    synchronized void emit(JsonObject event) {
        out.println(GSON.toJson(event));
        out.flush();
    }

    static JsonObject event(String name) {
        JsonObject event = new JsonObject();
        event.addProperty("event", name);
        return event;
    }

    void failed(String name, Throwable cause) {
        JsonObject event = event(name);
        event.addProperty("message", String.valueOf(cause));
        emit(event);
    }

    static JsonObject received(MessageView message) {
        ByteBuffer buffer = message.getBody().duplicate();
        byte[] body = new byte[buffer.remaining()];
        buffer.get(body);
        JsonObject event = event("received");
        event.addProperty("id", message.getMessageId().toString());
        event.addProperty("topic", message.getTopic());
        event.addProperty("at_us", ChronoUnit.MICROS.between(Instant.EPOCH, Instant.now()));
        event.addProperty("body_hex", HexFormat.of().formatHex(body));
        event.add("keys", GSON.toJsonTree(message.getKeys()));
        event.addProperty("tag", message.getTag().orElse(null));
        event.addProperty("message_group", message.getMessageGroup().orElse(null));
        event.addProperty("lite_topic", message.getLiteTopic().orElse(null));
        event.add("properties", GSON.toJsonTree(message.getProperties()));
        event.addProperty("attempt", message.getDeliveryAttempt());
        return event;
    }
}

package martlet;

import com.google.gson.Gson;
import com.google.gson.JsonObject;
import java.io.PrintStream;

/** One JSON object per line on the real standard output; whatever else prints goes to standard error. */
final class TcpEvents {
    static final Gson GSON = new Gson();
    private final PrintStream out;

    TcpEvents() {
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
}

package martlet;

import com.google.gson.Gson;
import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import org.apache.rocketmq.tools.command.MQAdminStartup;

/** Runs mqadmin once per line of standard input, a JSON list of its arguments, and answers with a line: what it printed, as a JSON text. */
public final class Mqadmin extends MQAdminStartup {
    private Mqadmin() {}

    public static void main(String[] arguments) {
        try {
            run();
        } catch (IOException gone) {
            // Whoever asked has gone.
        }
        System.exit(0);
    }

    private static void run() throws IOException {
        Gson gson = new Gson();
        PrintStream answers = System.out;
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            ByteArrayOutputStream printed = new ByteArrayOutputStream();
            PrintStream out = new PrintStream(printed, true, StandardCharsets.UTF_8);
            System.setOut(out);
            System.setErr(out);
            // Some commands keep the client that they have shut down.
            SUB_COMMANDS.clear();
            try {
                MQAdminStartup.main0(gson.fromJson(line, String[].class), null);
            } catch (RuntimeException thrown) {
                thrown.printStackTrace(out);
            }
            answers.println(gson.toJson(printed.toString(StandardCharsets.UTF_8)));
            answers.flush();
        }
    }
}

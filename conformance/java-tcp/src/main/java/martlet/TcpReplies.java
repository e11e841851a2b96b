package martlet;

import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.utils.MessageUtil;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/** Messages that want a reply, and replies. */
final class TcpReplies {
    private static final int REPLY_WITHIN_MILLIS = 10_000;
    private final TcpAgent agent;

    TcpReplies(TcpAgent agent) {
        this.agent = agent;
    }

    /** Sends each line as a request; its reply is reported as received. */
    void request() throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer(agent.options.text("group", "requesters"));
        producer.setNamesrvAddr(agent.options.text("endpoint", ""));
        agent.start(producer::start);
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        int index = 0;
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            Message message = agent.message(JsonParser.parseString(line).getAsJsonObject());
            try {
                agent.received((MessageExt) producer.request(message, REPLY_WITHIN_MILLIS), "success");
            } catch (Exception e) {
                JsonObject event = TcpEvents.event("send_failed");
                event.addProperty("index", index);
                event.addProperty("message", String.valueOf(e));
                agent.events.emit(event);
            }
            index++;
        }
        producer.shutdown();
    }

    /** Answers each request with its body, after "re: ". */
    void reply() throws Exception {
        agent.endWithStandardInput();
        DefaultMQProducer producer = new DefaultMQProducer("repliers");
        producer.setNamesrvAddr(agent.options.text("endpoint", ""));
        producer.start();
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(agent.options.text("group", ""));
        consumer.setNamesrvAddr(agent.options.text("endpoint", ""));
        consumer.subscribe(agent.options.text("topic", ""), "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            MessageExt request = messages.get(0);
            try {
                byte[] body = ("re: " + new String(request.getBody(), StandardCharsets.UTF_8)).getBytes(StandardCharsets.UTF_8);
                producer.send(MessageUtil.createReplyMessage(request, body), REPLY_WITHIN_MILLIS);
                agent.received(request, "success");
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            } catch (Exception e) {
                agent.events.failed("receive_failed", e);
                // Whoever asked does not wait for another try.
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            }
        });
        agent.start(consumer::start);
        agent.awaitEnd();
        consumer.shutdown();
        producer.shutdown();
    }
}

package martlet;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.lang.reflect.Method;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.function.BooleanSupplier;
import java.util.function.Predicate;
import org.apache.rocketmq.acl.common.AclClientRPCHook;
import org.apache.rocketmq.acl.common.SessionCredentials;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueAveragely;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageAccessor;
import org.apache.rocketmq.common.message.MessageConst;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.remoting.RPCHook;

/** Drives the published Java client for the remoting protocol on the harness's behalf. Compiles with 4.9 and 5.x. */
public final class TcpAgent {
    private static final long RETRY_MILLIS = 200;
    final TcpOptions options;
    final TcpEvents events;
    private final long deadlineNanos;
    private final CountDownLatch ended = new CountDownLatch(1);
    private final Map<String, Integer> deliveries = new ConcurrentHashMap<>();
    private final Set<String> done = ConcurrentHashMap.newKeySet();

    private TcpAgent(TcpOptions options, TcpEvents events) {
        this.options = options;
        this.events = events;
        this.deadlineNanos = System.nanoTime() + TimeUnit.SECONDS.toNanos(options.number("deadline-secs", 60));
    }

    public static void main(String[] args) throws Exception {
        TcpEvents events = new TcpEvents();
        TcpAgent agent = new TcpAgent(TcpOptions.parse(args), events);
        switch (agent.options.command()) {
            case "produce" -> agent.produce();
            case "push" -> agent.push();
            case "lite-pull" -> agent.litePull();
            case "query" -> agent.query();
            case "pop-ordered" -> agent.popOrdered();
            case "request" -> new TcpReplies(agent).request();
            case "reply" -> new TcpReplies(agent).reply();
            default -> throw new IllegalArgumentException("unknown command " + agent.options.command());
        }
        events.emit(TcpEvents.event("done"));
        // The client's own threads must not keep a finished agent alive.
        System.exit(0);
    }

    private boolean again() throws InterruptedException {
        return System.nanoTime() - deadlineNanos < 0 && !ended.await(RETRY_MILLIS, TimeUnit.MILLISECONDS);
    }

    interface Step {
        void run() throws Exception;
    }

    /** Starting fails while the broker is away: try until the deadline. */
    void start(Step step) throws Exception {
        while (true) {
            try {
                step.run();
                events.emit(TcpEvents.event("ready"));
                return;
            } catch (MQClientException | RuntimeException e) {
                events.failed("start_failed", e);
                if (!again()) {
                    throw e;
                }
            }
        }
    }

    /** What signs requests; none without an access key. */
    private RPCHook signing() {
        SessionCredentials credentials = new SessionCredentials(options.text("access-key", ""), options.text("secret-key", ""));
        return options.has("access-key") ? new AclClientRPCHook(credentials) : null;
    }

    private void produce() throws Exception {
        String group = options.text("group", "producers");
        DefaultMQProducer producer;
        if (options.has("transactional")) {
            TransactionMQProducer transactional = new TransactionMQProducer(group, signing());
            transactional.setTransactionListener(new Outcomes());
            producer = transactional;
        } else {
            producer = new DefaultMQProducer(group, signing(), options.has("trace"), null);
        }
        producer.setNamesrvAddr(options.text("endpoint", ""));
        producer.setUseTLS(options.has("tls"));
        producer.setVipChannelEnabled(options.has("vip"));
        producer.setSendMsgTimeout(3_000);
        start(producer::start);
        int index = 0;
        if (options.text("mode", "sync").equals("batch")) {
            batch(producer, options.number("count", 1));
        } else if (options.has("stdin")) {
            BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
            for (String line = in.readLine(); line != null; line = in.readLine()) {
                JsonObject input = JsonParser.parseString(line).getAsJsonObject();
                SendResult result = send(producer, index++, input);
                if (input.has("recall") && input.get("recall").getAsBoolean()) {
                    recall(producer, result);
                }
            }
        } else {
            for (; index < options.number("count", 1); index++) {
                JsonObject input = new JsonObject();
                input.addProperty("body", "message " + index);
                send(producer, index, input);
            }
        }
        producer.shutdown();
    }

    private void batch(DefaultMQProducer producer, int count) throws Exception {
        List<Message> messages = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            JsonObject input = new JsonObject();
            input.addProperty("body", "message " + i);
            input.addProperty("tag", "batch");
            messages.add(message(input));
        }
        SendResult result = producer.send(messages);
        for (int i = 0; i < count; i++) {
            sent(messages.get(i), i, result);
        }
    }

    private SendResult send(DefaultMQProducer producer, int index, JsonObject input) throws Exception {
        while (true) {
            try {
                Message message = message(input);
                SendResult result = null;
                if (input.has("transaction")) {
                    result = producer.sendMessageInTransaction(message, input.get("transaction").getAsString());
                } else {
                    switch (options.text("mode", "sync")) {
                        case "oneway" -> producer.sendOneway(message);
                        case "async" -> result = async(producer, message);
                        case "queue" -> result = producer.send(
                                message, (queues, it, wanted) -> queues.get((Integer) wanted), options.number("queue", 0));
                        default -> result = producer.send(message);
                    }
                }
                if (result != null && result.getSendStatus() != SendStatus.SEND_OK) {
                    throw new IllegalStateException("send status " + result.getSendStatus());
                }
                sent(message, index, result);
                return result;
            } catch (Exception e) {
                JsonObject event = TcpEvents.event("send_failed");
                event.addProperty("index", index);
                event.addProperty("message", String.valueOf(e));
                events.emit(event);
                if (!again()) {
                    throw e;
                }
            }
        }
    }

    /** Reports what has the key, as received. */
    private void query() throws Exception {
        DefaultMQProducer client = new DefaultMQProducer("queriers");
        client.setNamesrvAddr(options.text("endpoint", ""));
        start(client::start);
        String topic = options.text("topic", "");
        for (MessageExt message : client.queryMessage(topic, options.text("key", ""), 32, 0, Long.MAX_VALUE).getMessageList()) {
            received(message, null);
        }
        client.shutdown();
    }

    private static SendResult async(DefaultMQProducer producer, Message message) throws Exception {
        CompletableFuture<SendResult> done = new CompletableFuture<>();
        producer.send(message, new SendCallback() {
            @Override
            public void onSuccess(SendResult result) {
                done.complete(result);
            }

            @Override
            public void onException(Throwable e) {
                done.completeExceptionally(e);
            }
        });
        return done.get();
    }

    private void sent(Message message, int index, SendResult result) {
        JsonObject event = TcpEvents.event("sent");
        event.addProperty("id", message.getProperty(MessageConst.PROPERTY_UNIQ_CLIENT_MESSAGE_ID_KEYIDX));
        event.addProperty("index", index);
        if (result != null) {
            event.addProperty("queue", result.getMessageQueue().getQueueId());
            event.addProperty("offset", result.getQueueOffset());
            event.addProperty("offset_id", result.getOffsetMsgId());
        }
        events.emit(event);
    }

    /** Only 5.3 and newer can recall, so it is called by name. */
    private void recall(DefaultMQProducer producer, SendResult result) {
        try {
            String handle = (String) SendResult.class.getMethod("getRecallHandle").invoke(result);
            Object id = DefaultMQProducer.class.getMethod("recallMessage", String.class, String.class)
                    .invoke(producer, options.text("topic", ""), handle);
            JsonObject event = TcpEvents.event("recalled");
            event.addProperty("id", String.valueOf(id));
            events.emit(event);
        } catch (ReflectiveOperationException e) {
            events.failed("recall_failed", e.getCause() == null ? e : e.getCause());
        }
    }

    Message message(JsonObject input) {
        byte[] body = input.has("body_hex")
                ? HexFormat.of().parseHex(input.get("body_hex").getAsString())
                : input.get("body").getAsString().getBytes(StandardCharsets.UTF_8);
        Message message = new Message(options.text("topic", ""), body);
        if (input.has("tag")) {
            message.setTags(input.get("tag").getAsString());
        }
        if (input.has("keys")) {
            List<String> keys = new ArrayList<>();
            for (JsonElement key : input.getAsJsonArray("keys")) {
                keys.add(key.getAsString());
            }
            if (!keys.isEmpty()) {
                message.setKeys(keys);
            }
        }
        if (input.has("flag")) {
            message.setFlag(input.get("flag").getAsInt());
        }
        if (input.has("delay_level")) {
            message.setDelayTimeLevel(input.get("delay_level").getAsInt());
        }
        if (input.has("deliver_at_ms")) {
            MessageAccessor.putProperty(message, "TIMER_DELIVER_MS", input.get("deliver_at_ms").getAsString());
        }
        if (input.has("properties")) {
            for (Map.Entry<String, JsonElement> property : input.getAsJsonObject("properties").entrySet()) {
                message.putUserProperty(property.getKey(), property.getValue().getAsString());
            }
        }
        return message;
    }

    private void push() throws Exception {
        endWithStandardInput();
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(
                options.text("group", ""), signing(), new AllocateMessageQueueAveragely(), options.has("trace"), null);
        consumer.setNamesrvAddr(options.text("endpoint", ""));
        consumer.setUseTLS(options.has("tls"));
        consumer.setConsumeThreadMin(4);
        consumer.setConsumeThreadMax(4);
        if (options.has("max-reconsume")) {
            consumer.setMaxReconsumeTimes(options.number("max-reconsume", 16));
        }
        if (options.has("broadcasting")) {
            broadcast(consumer);
        }
        if (options.has("pop")) {
            // Only 5.x can, so these are called by name.
            DefaultMQPushConsumer.class.getMethod("setClientRebalance", boolean.class).invoke(consumer, false);
            DefaultMQPushConsumer.class.getMethod("setPopInvisibleTime", long.class)
                    .invoke(consumer, options.number("invisible-secs", 60) * 1_000L);
            pops("mode", String.class, String.class, String.class)
                    .invoke(null, options.text("endpoint", ""), options.text("topic", ""), options.text("group", ""));
        }
        String filter = options.text("filter", "*");
        consumer.subscribe(options.text("topic", ""), filter.startsWith("sql:")
                ? MessageSelector.bySql(filter.substring(4)) : MessageSelector.byTag(filter));
        if (options.has("orderly")) {
            consumer.setSuspendCurrentQueueTimeMillis(1_000);
            consumer.registerMessageListener((MessageListenerOrderly) (messages, context) ->
                    consumed(messages.get(0))
                            ? ConsumeOrderlyStatus.SUCCESS : ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT);
        } else {
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                if (options.has("delay-level")) {
                    context.setDelayLevelWhenNextConsume(options.number("delay-level", 0));
                }
                return consumed(messages.get(0))
                        ? ConsumeConcurrentlyStatus.CONSUME_SUCCESS : ConsumeConcurrentlyStatus.RECONSUME_LATER;
            });
        }
        start(consumer::start);
        awaitEnd();
        consumer.shutdown();
    }

    /** What the agent that is built with 4.9 does not have. */
    private static Method pops(String name, Class<?>... parameters) throws ReflectiveOperationException {
        return Class.forName("martlet.TcpPop").getMethod(name, parameters);
    }

    private void popOrdered() throws Exception {
        endWithStandardInput();
        Predicate<MessageExt> consumed = this::consumed;
        BooleanSupplier goesOn = () -> System.nanoTime() - deadlineNanos < 0 && ended.getCount() > 0;
        events.emit(TcpEvents.event("ready"));
        pops("ordered", String.class, String.class, String.class, Predicate.class, BooleanSupplier.class)
                .invoke(null, options.text("endpoint", ""), options.text("topic", ""), options.text("group", ""), consumed,
                        goesOn);
    }

    /** The model's class is in different packages in 4.9 and 5.x, so it is found by the setter. */
    private static void broadcast(DefaultMQPushConsumer consumer) throws ReflectiveOperationException {
        for (Method method : DefaultMQPushConsumer.class.getMethods()) {
            if (method.getName().equals("setMessageModel")) {
                for (Object model : method.getParameterTypes()[0].getEnumConstants()) {
                    if (model.toString().equals("BROADCASTING") || ((Enum<?>) model).name().equals("BROADCASTING")) {
                        method.invoke(consumer, model);
                    }
                }
            }
        }
    }

    /** Whether the listener says that a message was consumed. */
    private boolean consumed(MessageExt message) {
        String id = message.getProperty(MessageConst.PROPERTY_UNIQ_CLIENT_MESSAGE_ID_KEYIDX);
        int delivery = deliveries.merge(id, 1, Integer::sum);
        boolean fails = options.has("fail-all") || delivery <= options.number("fail-first", 0);
        received(message, fails ? "failure" : "success");
        if (!fails) {
            done.add(id);
        }
        if (options.has("count") && done.size() >= options.number("count", 0)) {
            ended.countDown();
        }
        return !fails;
    }

    private void litePull() throws Exception {
        endWithStandardInput();
        DefaultLitePullConsumer consumer = new DefaultLitePullConsumer(options.text("group", ""), signing());
        consumer.setNamesrvAddr(options.text("endpoint", ""));
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(options.text("topic", ""), options.text("filter", "*"));
        start(consumer::start);
        while (System.nanoTime() - deadlineNanos < 0 && ended.getCount() > 0) {
            for (MessageExt message : consumer.poll(1_000)) {
                consumed(message);
            }
            consumer.commitSync();
        }
        consumer.shutdown();
    }

    void received(MessageExt message, String result) {
        JsonObject event = TcpEvents.event("received");
        event.addProperty("id", message.getProperty(MessageConst.PROPERTY_UNIQ_CLIENT_MESSAGE_ID_KEYIDX));
        event.addProperty("topic", message.getTopic());
        event.addProperty("at_us", ChronoUnit.MICROS.between(Instant.EPOCH, Instant.now()));
        event.addProperty("body_hex", HexFormat.of().formatHex(message.getBody()));
        event.addProperty("queue", message.getQueueId());
        event.addProperty("offset", message.getQueueOffset());
        List<String> keys = new ArrayList<>();
        if (message.getKeys() != null && !message.getKeys().isEmpty()) {
            keys.addAll(List.of(message.getKeys().split(" ")));
        }
        event.add("keys", TcpEvents.GSON.toJsonTree(keys));
        event.addProperty("tag", message.getTags());
        event.addProperty("message_group", message.getProperty("__SHARDINGKEY"));
        event.add("properties", TcpEvents.GSON.toJsonTree(message.getProperties()));
        event.addProperty("attempt", message.getReconsumeTimes() + 1);
        event.addProperty("result", result);
        events.emit(event);
    }

    void awaitEnd() throws InterruptedException {
        long left = deadlineNanos - System.nanoTime();
        if (left > 0) {
            ended.await(left, TimeUnit.NANOSECONDS);
        }
    }

    void endWithStandardInput() {
        Thread watcher = new Thread(() -> {
            try {
                while (System.in.read() >= 0) {
                    // Nothing is expected; only the end matters.
                }
            } catch (IOException e) {
                System.err.println("standard input: " + e);
            }
            ended.countDown();
        }, "stdin");
        watcher.setDaemon(true);
        watcher.start();
    }

    /** What becomes of a transaction: at first what its sender says, when it is asked what the message's property says. */
    private final class Outcomes implements TransactionListener {
        @Override
        public LocalTransactionState executeLocalTransaction(Message message, Object wanted) {
            return state(String.valueOf(wanted));
        }

        @Override
        public LocalTransactionState checkLocalTransaction(MessageExt message) {
            JsonObject event = TcpEvents.event("checked");
            event.addProperty("id", message.getProperty(MessageConst.PROPERTY_UNIQ_CLIENT_MESSAGE_ID_KEYIDX));
            events.emit(event);
            String outcome = message.getProperty("outcome");
            return state(outcome == null ? "" : outcome);
        }

        private LocalTransactionState state(String outcome) {
            return switch (outcome) {
                case "commit" -> LocalTransactionState.COMMIT_MESSAGE;
                case "rollback" -> LocalTransactionState.ROLLBACK_MESSAGE;
                default -> LocalTransactionState.UNKNOW;
            };
        }
    }
}

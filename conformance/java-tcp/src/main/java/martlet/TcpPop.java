package martlet;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.function.BooleanSupplier;
import java.util.function.Predicate;
import org.apache.rocketmq.client.consumer.AckCallback;
import org.apache.rocketmq.client.consumer.AckResult;
import org.apache.rocketmq.client.consumer.PopCallback;
import org.apache.rocketmq.client.consumer.PopResult;
import org.apache.rocketmq.client.impl.MQClientAPIImpl;
import org.apache.rocketmq.client.impl.factory.MQClientInstance;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.MessageConst;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.common.message.MessageRequestMode;
import org.apache.rocketmq.remoting.protocol.header.AckMessageRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.ChangeInvisibleTimeRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.PopMessageRequestHeader;

/** What only 5.x clients can: popping. Left out of the agent that is built with 4.9, so it is called by name. */
public final class TcpPop {
    private static final long TIMEOUT_MILLIS = 3_000;
    private static final long POLL_MILLIS = 15_000;
    private final MQClientAPIImpl api;
    private final String broker;
    private final String address;
    private final String topic;
    private final String group;

    private TcpPop(MQClientInstance client, String broker, String topic, String group) {
        this.api = client.getMQClientAPIImpl();
        this.broker = broker;
        this.address = client.findBrokerAddressInPublish(broker);
        this.topic = topic;
        this.group = group;
    }

    interface Step {
        void run(TcpPop pop) throws Exception;
    }

    private static void with(String endpoint, String topic, String group, Step step) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer("popping-" + group.replaceAll("[^A-Za-z0-9]", ""));
        producer.setNamesrvAddr(endpoint);
        producer.start();
        try {
            List<MessageQueue> queues = producer.fetchPublishMessageQueues(topic);
            MQClientInstance client = producer.getDefaultMQProducerImpl().getMqClientFactory();
            step.run(new TcpPop(client, queues.get(0).getBrokerName(), topic, group));
        } finally {
            producer.shutdown();
        }
    }

    /** Has the group pop the topic, as an operator does. */
    public static void mode(String endpoint, String topic, String group) throws Exception {
        with(endpoint, topic, group, pop -> pop.api.setMessageRequestMode(
                pop.address, topic, group, MessageRequestMode.POP, 0, TIMEOUT_MILLIS));
    }

    /** Pops in order; what was not consumed comes again at once, and what was popped with it waits behind it. */
    public static void ordered(
            String endpoint, String topic, String group, Predicate<MessageExt> consumed, BooleanSupplier goesOn)
            throws Exception {
        with(endpoint, topic, group, pop -> {
            while (goesOn.getAsBoolean()) {
                for (MessageExt message : pop.pop()) {
                    if (!consumed.test(message)) {
                        pop.changeInvisible(message, 0);
                        break;
                    }
                    pop.ack(message);
                }
            }
        });
    }

    private List<MessageExt> pop() throws Exception {
        PopMessageRequestHeader header = new PopMessageRequestHeader();
        header.setConsumerGroup(group);
        header.setTopic(topic);
        header.setQueueId(-1);
        header.setMaxMsgNums(8);
        header.setInvisibleTime(5_000);
        header.setInitMode(0);
        header.setExpType("TAG");
        header.setExp("*");
        header.setOrder(true);
        header.setPollTime(POLL_MILLIS);
        header.setBornTime(System.currentTimeMillis());
        CompletableFuture<List<MessageExt>> found = new CompletableFuture<>();
        api.popMessageAsync(broker, address, header, POLL_MILLIS + 10_000, new PopCallback() {
            @Override
            public void onSuccess(PopResult result) {
                List<MessageExt> messages = result.getMsgFoundList();
                found.complete(messages == null ? new ArrayList<>() : messages);
            }

            @Override
            public void onException(Throwable e) {
                found.completeExceptionally(e);
            }
        });
        return found.get();
    }

    private void ack(MessageExt message) throws Exception {
        AckMessageRequestHeader header = new AckMessageRequestHeader();
        header.setConsumerGroup(group);
        header.setTopic(topic);
        header.setQueueId(message.getQueueId());
        header.setOffset(message.getQueueOffset());
        header.setExtraInfo(message.getProperty(MessageConst.PROPERTY_POP_CK));
        Answer answer = new Answer();
        api.ackMessageAsync(address, TIMEOUT_MILLIS, answer, header);
        answer.get();
    }

    private void changeInvisible(MessageExt message, long millis) throws Exception {
        ChangeInvisibleTimeRequestHeader header = new ChangeInvisibleTimeRequestHeader();
        header.setConsumerGroup(group);
        header.setTopic(topic);
        header.setQueueId(message.getQueueId());
        header.setOffset(message.getQueueOffset());
        header.setExtraInfo(message.getProperty(MessageConst.PROPERTY_POP_CK));
        header.setInvisibleTime(millis);
        Answer answer = new Answer();
        api.changeInvisibleTimeAsync(broker, address, header, TIMEOUT_MILLIS, answer);
        answer.get();
    }

    private static final class Answer extends CompletableFuture<AckResult> implements AckCallback {
        @Override
        public void onSuccess(AckResult result) {
            complete(result);
        }

        @Override
        public void onException(Throwable e) {
            completeExceptionally(e);
        }
    }
}

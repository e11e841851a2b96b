package main

import (
	"strings"
	"sync"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

// liteInvisible is how long a lite message stays with this consumer: the client asks for it with each receive.
const liteInvisible = 30 * time.Second

// lite runs a lite push consumer of the lite topics named, below the topic.
func lite(o *options) error {
	o.endWithStandardInput()
	tally := newTally()
	var once sync.Once
	reached := make(chan struct{})
	listen := func(m *rmq.MessageView) rmq.ConsumerResult {
		e := received(m)
		e["result"] = "success"
		emit(e)
		if done := tally.finish(m.GetMessageId()); o.count > 0 && done >= o.count {
			once.Do(func() { close(reached) })
		}
		return rmq.SUCCESS
	}
	consumer, err := start(o, func() (rmq.LitePushConsumer, error) {
		return rmq.NewLitePushConsumer(o.config(), rmq.NewLitePushConsumerConfig(o.topic, liteInvisible),
			rmq.WithPushAwaitDuration(10*time.Second), rmq.WithPushMaxCacheMessageCount(int32(o.cache)),
			rmq.WithPushConsumptionThreadCount(4),
			rmq.WithPushMessageListener(&rmq.FuncMessageListener{Consume: listen}))
	})
	if err != nil {
		return err
	}
	defer stop(consumer)
	for _, name := range strings.Split(o.liteTopics, ",") {
		for {
			err := consumer.SubscribeLite(name)
			if err == nil {
				break
			}
			failed("receive_failed", err)
			if !o.again() {
				return err
			}
		}
	}
	emit(event{"event": "subscribed"})
	select {
	case <-reached:
	case <-o.ended:
	case <-time.After(time.Until(o.deadline)):
	}
	return nil
}

package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"time"

	tcp "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
	"github.com/apache/rocketmq-client-go/v2/rlog"
)

// runTCP drives the published Go client of the remoting protocol.
func runTCP(o *options) error {
	rlog.SetLogLevel("error")
	switch o.command {
	case "produce":
		return produceTCP(o)
	case "push":
		return pushTCP(o)
	default:
		return fmt.Errorf("unknown command tcp %s", o.command)
	}
}

func (o *options) nameServers() primitive.NamesrvAddr { return primitive.NamesrvAddr{o.endpoint} }

// startTCP tries until the deadline.
func startTCP(o *options, start func() error) error {
	for {
		err := start()
		if err == nil {
			emit(event{"event": "ready"})
			return nil
		}
		failed("start_failed", err)
		if !o.again() {
			return err
		}
	}
}

func (in *input) tcpMessage(topic string) (*primitive.Message, error) {
	m := primitive.NewMessage(topic, []byte(in.Body))
	if in.BodyHex != nil {
		body, err := hex.DecodeString(*in.BodyHex)
		if err != nil {
			return nil, err
		}
		m.Body = body
	}
	if in.Tag != nil {
		m.WithTag(*in.Tag)
	}
	if len(in.Keys) > 0 {
		m.WithKeys(in.Keys)
	}
	if in.Group != nil {
		m.WithShardingKey(*in.Group)
	}
	for k, v := range in.Properties {
		m.WithProperty(k, v)
	}
	return m, nil
}

func (o *options) signer() primitive.Credentials {
	return primitive.Credentials{AccessKey: o.accessKey, SecretKey: o.secretKey}
}

func produceTCP(o *options) error {
	given := []producer.Option{producer.WithNameServer(o.nameServers()), producer.WithGroupName("producers"), producer.WithRetry(2)}
	if o.accessKey != "" {
		given = append(given, producer.WithCredentials(o.signer()))
	}
	p, err := tcp.NewProducer(given...)
	if err != nil {
		return err
	}
	if err := startTCP(o, p.Start); err != nil {
		return err
	}
	defer func() { _ = p.Shutdown() }()
	send := func(index int, in *input) error {
		m, err := in.tcpMessage(o.topic)
		if err != nil {
			return err
		}
		for {
			result, err := p.SendSync(context.Background(), m)
			if err == nil {
				emit(event{"event": "sent", "id": result.MsgID, "index": index, "queue": result.MessageQueue.QueueId})
				return nil
			}
			emit(event{"event": "send_failed", "index": index, "message": err.Error()})
			if !o.again() {
				return err
			}
		}
	}
	return eachInput(o, send)
}

func receivedTCP(m *primitive.MessageExt) event {
	return event{
		"event": "received", "id": m.MsgId, "topic": m.Topic, "at_us": time.Now().UnixMicro(),
		"body_hex": hex.EncodeToString(m.Body), "keys": strings.Fields(m.GetKeys()), "tag": m.GetTags(),
		"message_group": m.GetShardingKey(), "properties": m.GetProperties(), "attempt": m.ReconsumeTimes + 1,
		"offset": m.QueueOffset, "queue": m.Queue.QueueId,
	}
}

func pushTCP(o *options) error {
	o.endWithStandardInput()
	given := []consumer.Option{
		consumer.WithNameServer(o.nameServers()), consumer.WithGroupName(o.group),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset), consumer.WithConsumerOrder(o.orderly),
	}
	if o.broadcasting {
		given = append(given, consumer.WithConsumerModel(consumer.BroadCasting))
	}
	if o.accessKey != "" {
		given = append(given, consumer.WithCredentials(o.signer()))
	}
	c, err := tcp.NewPushConsumer(given...)
	if err != nil {
		return err
	}
	tally := newTally()
	var once sync.Once
	reached := make(chan struct{})
	listen := func(ctx context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		failure := false
		for _, m := range messages {
			delivery, number := tally.delivered(m.MsgId)
			e := receivedTCP(m)
			e["result"] = "success"
			if o.fails(delivery) || (o.failEvery > 0 && number%o.failEvery == 0) {
				e["result"] = "failure"
				failure = true
			}
			emit(e)
			if !failure && tally.finish(m.MsgId) >= o.count && o.count > 0 {
				once.Do(func() { close(reached) })
			}
		}
		if !failure {
			return consumer.ConsumeSuccess, nil
		}
		if concurrently, ok := primitive.GetConcurrentlyCtx(ctx); ok && o.delayLevel > 0 {
			concurrently.DelayLevelWhenNextConsume = o.delayLevel
		}
		if o.orderly {
			return consumer.SuspendCurrentQueueAMoment, nil
		}
		return consumer.ConsumeRetryLater, nil
	}
	selector := consumer.MessageSelector{Type: consumer.TAG, Expression: o.filter}
	if condition, ok := strings.CutPrefix(o.filter, "sql:"); ok {
		selector = consumer.MessageSelector{Type: consumer.SQL92, Expression: condition}
	}
	if err := c.Subscribe(o.topic, selector, listen); err != nil {
		return err
	}
	if err := startTCP(o, c.Start); err != nil {
		return err
	}
	defer func() { _ = c.Shutdown() }()
	select {
	case <-reached:
	case <-o.ended:
	case <-time.After(time.Until(o.deadline)):
	}
	return nil
}

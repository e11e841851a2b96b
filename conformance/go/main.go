// The agent drives the published Go client on the harness's behalf.
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	"github.com/apache/rocketmq-clients/golang/v5/credentials"
	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
)

func main() {
	o, err := parse(os.Args)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	os.Stdout = os.Stderr // whatever else prints must not mix with the events
	rmq.EnableSsl = o.tls
	if o.tcp {
		err = runTCP(o)
	} else {
		err = run(o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	emit(event{"event": "done"})
}

func run(o *options) error {
	switch o.command {
	case "produce":
		return produce(o)
	case "simple":
		return simple(o)
	case "push":
		return push(o)
	case "lite":
		return lite(o)
	default:
		return fmt.Errorf("unknown command %s", o.command)
	}
}

func (o *options) config() *rmq.Config {
	signer := &credentials.SessionCredentials{AccessKey: o.accessKey, AccessSecret: o.secretKey}
	return &rmq.Config{Endpoint: o.endpoint, ConsumerGroup: o.group, Credentials: signer}
}

func (o *options) expression() *rmq.FilterExpression {
	if condition, ok := strings.CutPrefix(o.filter, "sql:"); ok {
		return rmq.NewFilterExpressionWithType(condition, rmq.SQL92)
	}
	return rmq.NewFilterExpression(o.filter)
}

type client interface {
	Start() error
	GracefulStop() error
}

// start tries until the deadline: starting fails while the broker is away or a topic is not known yet.
func start[C client](o *options, create func() (C, error)) (C, error) {
	for {
		c, err := create()
		if err == nil {
			err = c.Start()
		}
		if err == nil {
			emit(event{"event": "ready"})
			return c, nil
		}
		failed("start_failed", err)
		if !o.again() {
			return c, err
		}
	}
}

// stop closes the client, but does not wait for a broker that is away.
func stop(c client) {
	closed := make(chan struct{})
	go func() {
		_ = c.GracefulStop()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(3 * time.Second):
	}
}

type input struct {
	Body      string  `json:"body"`
	BodyHex   *string `json:"body_hex"`
	Tag       *string `json:"tag"`
	Group     *string `json:"message_group"`
	DeliverAt *int64  `json:"deliver_at_ms"`
	Recall    bool    `json:"recall"`
	Priority  *int32  `json:"priority"`
	LiteTopic *string `json:"lite_topic"`
	// Transaction says what to do once the half message is sent: commit, rollback or silent.
	Transaction string            `json:"transaction"`
	Keys        []string          `json:"keys"`
	Properties  map[string]string `json:"properties"`
}

func (in *input) message(topic string) (*rmq.Message, error) {
	m := &rmq.Message{Topic: topic, Body: []byte(in.Body)}
	if in.BodyHex != nil {
		body, err := hex.DecodeString(*in.BodyHex)
		if err != nil {
			return nil, err
		}
		m.Body = body
	}
	if in.Tag != nil {
		m.SetTag(*in.Tag)
	}
	if in.Group != nil {
		m.SetMessageGroup(*in.Group)
	}
	if in.DeliverAt != nil {
		m.SetDelayTimestamp(time.UnixMilli(*in.DeliverAt))
	}
	if in.LiteTopic != nil {
		m.SetLiteTopic(*in.LiteTopic)
	}
	if in.Priority != nil {
		if err := m.SetPriority(*in.Priority); err != nil {
			return nil, err
		}
	}
	m.SetKeys(in.Keys...)
	for k, v := range in.Properties {
		m.AddProperty(k, v)
	}
	return m, nil
}

func produce(o *options) error {
	producer, err := start(o, func() (rmq.Producer, error) {
		options := []rmq.ProducerOption{rmq.WithTopics(o.topic)}
		if o.transactional {
			options = append(options, rmq.WithTransactionChecker(&rmq.TransactionChecker{Check: check}))
		}
		return rmq.NewProducer(o.config(), options...)
	})
	if err != nil {
		return err
	}
	defer stop(producer)
	send := func(index int, in *input) error {
		for {
			m, err := in.message(o.topic)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			var receipts []*rmq.SendReceipt
			var transaction rmq.Transaction
			if in.Transaction != "" {
				transaction = producer.BeginTransaction()
				receipts, err = producer.SendWithTransaction(ctx, m, transaction)
			} else {
				receipts, err = producer.Send(ctx, m)
			}
			cancel()
			if err == nil {
				switch in.Transaction {
				case "commit":
					err = transaction.Commit()
				case "rollback":
					err = transaction.RollBack()
				}
				if err != nil {
					// The check will find out.
					failed("end_failed", err)
				}
				emit(event{"event": "sent", "id": receipts[0].MessageID, "index": index})
				if in.Recall {
					recall(producer, o.topic, receipts[0].RecallHandle)
				}
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

// eachInput sends what standard input says, a message a line, or as many messages as were asked for.
func eachInput(o *options, send func(int, *input) error) error {
	if !o.stdin {
		for i := 0; i < o.count; i++ {
			if err := send(i, &input{Body: fmt.Sprintf("message %d", i)}); err != nil {
				return err
			}
		}
		return nil
	}
	lines := bufio.NewReader(os.Stdin)
	for index := 0; ; index++ {
		line, err := lines.ReadBytes('\n')
		if len(line) == 0 && err == io.EOF {
			return nil
		}
		in := &input{}
		if err := json.Unmarshal(line, in); err != nil {
			return err
		}
		if err := send(index, in); err != nil {
			return err
		}
	}
}

func recall(producer rmq.Producer, topic, handle string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if id, err := producer.Recall(ctx, topic, handle); err != nil {
		failed("recall_failed", err)
	} else {
		emit(event{"event": "recalled", "id": id})
	}
}

// check answers what became of a transaction whose end the broker never heard: its message says so itself.
func check(m *rmq.MessageView) rmq.TransactionResolution {
	emit(event{"event": "checked", "id": m.GetMessageId()})
	switch m.GetProperties()["outcome"] {
	case "commit":
		return rmq.COMMIT
	case "rollback":
		return rmq.ROLLBACK
	default:
		return rmq.UNKNOWN
	}
}

// tally counts deliveries per message and the messages that are done.
type tally struct {
	sync.Mutex
	deliveries map[string]int
	done       map[string]bool
	total      int
}

func newTally() *tally { return &tally{deliveries: map[string]int{}, done: map[string]bool{}} }

func (t *tally) delivered(id string) (delivery, total int) {
	t.Lock()
	defer t.Unlock()
	t.deliveries[id]++
	t.total++
	return t.deliveries[id], t.total
}

func (t *tally) finish(id string) int {
	t.Lock()
	defer t.Unlock()
	t.done[id] = true
	return len(t.done)
}

func simple(o *options) error {
	o.endWithStandardInput()
	consumer, err := start(o, func() (rmq.SimpleConsumer, error) {
		return rmq.NewSimpleConsumer(o.config(), rmq.WithSimpleAwaitDuration(10*time.Second),
			rmq.WithSimpleSubscriptionExpressions(map[string]*rmq.FilterExpression{o.topic: o.expression()}))
	})
	if err != nil {
		return err
	}
	defer stop(consumer)
	tally := newTally()
	ctx := context.Background()
	for done := 0; !o.late() && (o.count == 0 || done < o.count); {
		select {
		case <-o.ended:
			return nil
		default:
		}
		messages, err := consumer.Receive(ctx, int32(o.batch), o.invisible)
		var status *rmq.ErrRpcStatus
		if errors.As(err, &status) && status.Code == int32(v2.Code_MESSAGE_NOT_FOUND) {
			continue
		}
		if err != nil {
			failed("receive_failed", err)
			if !o.again() {
				return nil
			}
			continue
		}
		for _, m := range messages {
			emit(received(m))
			id := m.GetMessageId()
			delivery, _ := tally.delivered(id)
			name, err := "acked", error(nil)
			switch {
			case delivery == 1 && o.changeInvisible > 0:
				name, err = "changed", consumer.ChangeInvisibleDuration(m, o.changeInvisible)
			case o.fails(delivery):
				continue
			default:
				if err = consumer.Ack(ctx, m); err == nil {
					done = tally.finish(id)
				}
			}
			if err != nil {
				emit(event{"event": "ack_failed", "id": id, "message": err.Error()})
			} else {
				emit(event{"event": name, "id": id})
			}
		}
	}
	return nil
}

func push(o *options) error {
	o.endWithStandardInput()
	tally := newTally()
	var once sync.Once
	reached := make(chan struct{})
	listen := func(m *rmq.MessageView) rmq.ConsumerResult {
		id := m.GetMessageId()
		delivery, number := tally.delivered(id)
		failure := o.fails(delivery) || (o.failEvery > 0 && number%o.failEvery == 0)
		e := received(m)
		if failure {
			e["result"] = "failure"
			emit(e)
			return rmq.FAILURE
		}
		e["result"] = "success"
		emit(e)
		if done := tally.finish(id); o.count > 0 && done >= o.count {
			once.Do(func() { close(reached) })
		}
		return rmq.SUCCESS
	}
	consumer, err := start(o, func() (rmq.PushConsumer, error) {
		return rmq.NewPushConsumer(o.config(), rmq.WithPushAwaitDuration(10*time.Second),
			rmq.WithPushSubscriptionExpressions(map[string]*rmq.FilterExpression{o.topic: o.expression()}),
			rmq.WithPushMaxCacheMessageCount(int32(o.cache)), rmq.WithPushConsumptionThreadCount(4),
			rmq.WithPushMessageListener(&rmq.FuncMessageListener{Consume: listen}))
	})
	if err != nil {
		return err
	}
	defer stop(consumer)
	select {
	case <-reached:
	case <-o.ended:
	case <-time.After(time.Until(o.deadline)):
	}
	return nil
}

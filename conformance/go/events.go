package main

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"sync"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

type event map[string]any

var (
	out     = os.Stdout
	outLock sync.Mutex
)

// emit writes one line; os.File is not buffered, so the harness sees it at once.
func emit(e event) {
	line, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	outLock.Lock()
	defer outLock.Unlock()
	if _, err := out.Write(append(line, '\n')); err != nil {
		os.Exit(1) // the harness is gone
	}
}

func failed(name string, err error) { emit(event{"event": name, "message": err.Error()}) }

func received(m *rmq.MessageView) event {
	return event{
		"event": "received", "id": m.GetMessageId(), "topic": m.GetTopic(),
		"at_us": time.Now().UnixMicro(), "body_hex": hex.EncodeToString(m.GetBody()),
		"keys": m.GetKeys(), "tag": m.GetTag(), "message_group": m.GetMessageGroup(),
		"lite_topic": m.GetLiteTopic(), "properties": m.GetProperties(),
		"attempt": m.GetDeliveryAttempt(), "offset": m.GetOffset(),
	}
}

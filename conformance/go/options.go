package main

import (
	"errors"
	"flag"
	"io"
	"os"
	"time"
)

// options is the agents' common command line; conformance/README.md describes it.
type options struct {
	command, endpoint, topic, group, filter string
	liteTopics                              string
	accessKey, secretKey                    string
	// tcp says to use the client of the remoting protocol, whose endpoint is the name server.
	tcp                                bool
	tls, stdin, failAll, transactional bool
	orderly, broadcasting              bool
	count, batch, cache, delayLevel    int
	failFirst, failEvery               int
	invisible, changeInvisible         time.Duration
	deadline                           time.Time
	// ended is closed when standard input ends, where only its end matters; nil, and so never, where messages come from there.
	ended chan struct{}
}

// retry is between two tries of what fails while the broker is away: that it is back is no event this client reports.
const retry = 200 * time.Millisecond

func parse(args []string) (*options, error) {
	if len(args) < 2 {
		return nil, errors.New("usage: [tcp] produce|simple|push|lite --endpoint HOST:PORT --topic T ...")
	}
	o := &options{command: args[1]}
	if o.command == "tcp" && len(args) > 2 {
		args = args[1:]
		o.tcp, o.command = true, args[1]
	}
	flags := flag.NewFlagSet(o.command, flag.ContinueOnError)
	flags.StringVar(&o.endpoint, "endpoint", "", "HOST:PORT")
	flags.StringVar(&o.topic, "topic", "", "topic")
	flags.StringVar(&o.group, "group", "", "consumer group")
	flags.StringVar(&o.filter, "filter", "*", "tag expression")
	flags.StringVar(&o.accessKey, "access-key", "", "user to sign as")
	flags.StringVar(&o.secretKey, "secret-key", "", "its secret")
	flags.StringVar(&o.liteTopics, "lite-topics", "", "lite topics, with commas in between")
	flags.BoolVar(&o.tls, "tls", false, "use TLS")
	flags.BoolVar(&o.stdin, "stdin", false, "messages come from standard input")
	flags.BoolVar(&o.transactional, "transactional", false, "messages are transactional")
	flags.BoolVar(&o.failAll, "fail-all", false, "fail every delivery")
	flags.BoolVar(&o.orderly, "orderly", false, "consume queues in order; TCP")
	flags.BoolVar(&o.broadcasting, "broadcasting", false, "get all messages; TCP")
	flags.IntVar(&o.delayLevel, "delay-level", 0, "when a failed message comes again; TCP")
	flags.IntVar(&o.count, "count", 0, "messages")
	flags.IntVar(&o.batch, "batch", 16, "messages per receive")
	flags.IntVar(&o.cache, "cache", 64, "messages held by a push consumer")
	flags.IntVar(&o.failFirst, "fail-first", 0, "fail the first K deliveries of each message")
	flags.IntVar(&o.failEvery, "fail-every", 0, "fail every N-th delivery")
	deadline := flags.Int("deadline-secs", 60, "seconds until the agent gives up")
	invisible := flags.Int("invisible-secs", 30, "seconds")
	change := flags.Int("change-invisible", 0, "seconds")
	if err := flags.Parse(args[2:]); err != nil {
		return nil, err
	}
	o.deadline = time.Now().Add(time.Duration(*deadline) * time.Second)
	o.invisible = time.Duration(*invisible) * time.Second
	o.changeInvisible = time.Duration(*change) * time.Second
	return o, nil
}

func (o *options) late() bool { return time.Now().After(o.deadline) }

// again says whether to try again, once it is time to: not after the deadline, nor when standard input has ended, which ends the wait.
func (o *options) again() bool {
	if o.late() {
		return false
	}
	select {
	case <-o.ended:
		return false
	case <-time.After(retry):
		return true
	}
}

func (o *options) endWithStandardInput() {
	ended := make(chan struct{})
	o.ended = ended
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
}

func (o *options) fails(delivery int) bool { return o.failAll || delivery <= o.failFirst }

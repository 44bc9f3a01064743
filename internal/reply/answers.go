package reply

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"

	"github.com/caddy-longpoll/caddy-longpoll/internal/directive"
)

// Answers is what the configuration has answered in place of the backend.
type Answers struct {
	// What is answered on a change in place of the backend's answer.
	OnChange *Reply `json:"on_change,omitempty"`

	// What is answered when the time is up. Default: a 304 where the client's version came
	// in If-None-Match or If-Modified-Since, else the backend's latest answer again.
	OnTimeout *Reply `json:"on_timeout,omitempty"`

	// Header fields, with placeholders, that are set on every answer that is made here.
	Header http.Header `json:"header,omitempty"`
}

// Reply is an answer from the configuration.
type Reply struct {
	// Only for on_timeout: the backend's latest answer again, also to a client
	// that would otherwise get a 304. Excludes the other fields.
	Replay bool `json:"replay,omitempty"`

	// 200 to 599.
	Status int `json:"status,omitempty"`

	// Text in which only `{name}` is a placeholder. Where it is JSON, the values
	// of placeholders are escaped.
	Body string `json:"body,omitempty"`
}

// Subdirectives are those that a is written by.
func (a *Answers) Subdirectives() directive.Block {
	return directive.Block{
		"on_change":  {Args: "<status> [<body>]", Min: 1, Max: 2, Set: setReply(&a.OnChange)},
		"on_timeout": {Args: "replay, or <status> [<body>]", Min: 1, Max: 2, Set: setReply(&a.OnTimeout)},
		"header":     {Args: "<field> <value>", Min: 2, Max: 2, Set: a.addHeader, Repeats: true},
	}
}

func setReply(field **Reply) func(args []string) error {
	return func(args []string) error {
		r := new(Reply)
		*field = r
		switch {
		case args[0] == "replay" && len(args) == 2:
			return fmt.Errorf("surplus argument %q", args[1])
		case args[0] == "replay":
			r.Replay = true
			return nil
		case len(args) == 2:
			r.Body = args[1]
		}
		return directive.Value(&r.Status, directive.Number)(args)
	}
}

func (a *Answers) addHeader(args []string) error {
	if a.Header == nil {
		a.Header = make(http.Header)
	}
	a.Header.Add(args[0], args[1])
	return nil
}

// Validate judges a, wherever it was written.
func (a *Answers) Validate() error {
	return cmp.Or(a.validateReplies(), directive.Header("header", a.Header))
}

func (a *Answers) validateReplies() error {
	change, timeout := a.OnChange, a.OnTimeout
	switch {
	case change != nil && change.Replay:
		return errors.New(`on_change "replay": expected a status, since replay is for on_timeout only`)
	case change != nil:
		if err := directive.Status("on_change", change.Status, change.Body); err != nil {
			return err
		}
	}
	switch {
	case timeout == nil, timeout.Replay && timeout.Status == 0 && timeout.Body == "":
		return nil
	case timeout.Replay:
		return fmt.Errorf("on_timeout %q with replay: expected replay alone, or a status with or without a body", directive.Answer(timeout.Status, timeout.Body))
	}
	return directive.Status("on_timeout", timeout.Status, timeout.Body)
}

package cli

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"
)

// event is one of a stream of server-sent events, or a part of one that says something of
// the stream alone.
type event struct {
	id    string // the latest that was given
	name  string
	data  []byte        // nil if it has none
	retry time.Duration // 0 if it says nothing of it
}

// errLongEvent is a stream that can not be kept.
var errLongEvent = errors.New("an event of the stream is too long")

// readEvents reads a stream as the HTML standard has it (section 9.2.6), until it ends or
// each returns false.
func readEvents(stream io.Reader, each func(event) bool) error {
	lines := bufio.NewScanner(stream)
	lines.Buffer(make([]byte, 0, 4096), maxRead)
	lines.Split(splitLine)
	var e event
	var data bytes.Buffer
	var has bool
	for lines.Scan() {
		line := lines.Text()
		if line == "" {
			if has {
				e.data = bytes.TrimSuffix(bytes.Clone(data.Bytes()), []byte("\n"))
			}
			if (has || e.retry > 0) && !each(e) {
				return nil
			}
			e, has = event{id: e.id}, false
			data.Reset()
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			e.name = value
		case "data":
			has = true
			if data.Len()+len(value) > maxRead {
				return errLongEvent
			}
			data.WriteString(value)
			data.WriteByte('\n')
		case "id":
			if !strings.Contains(value, "\x00") {
				e.id = value
			}
		case "retry":
			if ms, err := strconv.Atoi(value); err == nil && ms > 0 && ms < 1e9 {
				e.retry = time.Duration(ms) * time.Millisecond
			}
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return errLongEvent
	} else if err != nil {
		return err
	}
	return io.EOF
}

// splitLine finds lines that end with a line feed, a carriage return, or both.
func splitLine(text []byte, end bool) (advance int, line []byte, err error) {
	i := bytes.IndexAny(text, "\r\n")
	switch {
	case i < 0: // what has no end is no line (the standard drops it)
		if end {
			return len(text), nil, nil
		}
		return 0, nil, nil
	case text[i] == '\n':
		return i + 1, text[:i:i], nil
	case i+1 < len(text) && text[i+1] == '\n':
		return i + 2, text[:i:i], nil
	case i+1 == len(text) && !end:
		return 0, nil, nil // a line feed may follow
	}
	return i + 1, text[:i:i], nil
}

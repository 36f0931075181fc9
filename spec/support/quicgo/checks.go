package main

// The checks: each is one sentence of docs/PROTOCOL.md tried on a live server.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"
)

type check struct {
	name string
	run  func(t *client) error
}

// client is a session that was dialled, with what the server emitted to it.
type client struct {
	*peer
	dial  func() (*client, error) // another one, for checks that end in a closed connection
	heard chan event
}

func want(what string, got, expected any) error {
	if !reflect.DeepEqual(got, expected) {
		return fmt.Errorf("%s: got %#v, want %#v", what, got, expected)
	}
	return nil
}

func wantCall(t *client, expected []any, method string, args ...any) error {
	got, err := t.call(method, args...)
	if err != nil {
		return err
	}
	return want(method, got, expected)
}

func wantFailure(err error, status uint64, code string) error {
	var f *failure
	if !errors.As(err, &f) {
		return fmt.Errorf("no failure but %v", err)
	}
	if f.status != status || code != "" && f.code != code {
		return fmt.Errorf("status %d, code %q, message %q", f.status, f.code, f.message)
	}
	return nil
}

// eventually asks again until the answer is right, for at most 5 s.
func eventually(try func() error) error {
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := try()
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

var checks = []check{
	{"hello", checkHello},
	{"request", func(t *client) error { return wantCall(t, []any{int64(30)}, "math.add", 10, 20) }},
	{"request marked idempotent, with metadata and priority", checkIdempotent},
	{"values of every kind", checkValues},
	{"no result is the empty array", func(t *client) error { return wantCall(t, []any{}, "nothing") }},
	{"a payload of 60,000 bytes", func(t *client) error {
		s := strings.Repeat("0123456789", 6000)
		return wantCall(t, []any{s}, "values", s)
	}},
	{"one hundred calls at once", checkMany},
	{"a request byte by byte", checkSplit},
	{"an unknown odd frame is skipped", checkOddFrame},
	{"unknown method", func(t *client) error {
		_, err := t.call("math.sub", 1, 2)
		return wantFailure(err, statusNoMethod, "method_not_found")
	}},
	{"handler returns an error", checkFailCoded},
	{"handler raises", checkFailRaised},
	{"event on a lane, in order", checkEvents},
	{"event in a datagram", checkDatagram},
	{"named stream with half-close", checkStream},
	{"unknown named stream", checkNoStream},
	{"cancel of a slow call, answered", checkCancelAnswered},
	{"cancel of a slow call, with STOP_SENDING", checkCancelStop},
	{"cancel that overtakes its request", checkCancelEarly},
	{"cancel of a named stream", checkCancelStream},
	{"deadline at the responder", checkDeadline},
	{"ping", checkPing},
	{"the server calls us", func(t *client) error { return wantCall(t, []any{int64(42)}, "call.back", "peer.mul", 6, 7) }},
	{"the server gets our error", func(t *client) error {
		return wantCall(t, []any{nil, "permission_denied"}, "call.back", "peer.fail")
	}},
	{"the server emits to us", checkEmitBack},
	{"the server opens a stream to us", func(t *client) error { return wantCall(t, []any{"FROM THE SERVER"}, "stream.back", "echo") }},
	{"an unknown unidirectional stream is stopped", checkUnknownUni},
	{"an unknown even frame closes the connection", checkEvenFrame},
	{"HELLO twice closes the connection", checkHelloTwice},
	{"a frame before HELLO closes the connection", checkNoHello},
	{"a body that ends early closes the connection", checkShortBody},
	{"a request over the limit is refused before it has come", checkTooLarge},
	{"still alive at the end", func(t *client) error { return wantCall(t, []any{int64(3)}, "math.add", 1, 2) }},
}

func checkHello(t *client) error {
	select {
	case <-t.gotHello:
	case <-time.After(5 * time.Second):
		return errors.New("no HELLO within 5 s")
	}
	if t.theirs.minMinor != 0 {
		return fmt.Errorf("minor versions from %d", t.theirs.minMinor)
	}
	if t.theirs.number(1, 65536) < 65536 {
		return fmt.Errorf("max_message is %d", t.theirs.number(1, 65536))
	}
	return nil
}

func checkIdempotent(t *client) error {
	r := callOf("math.add", -5, int64(1)<<40)
	r.flags, r.priority, r.metadata = flagIdempotent, 0, map[string]string{"trace": "abc", "es-nothing": "\x00\xff"}
	x, err := t.open(r, nil)
	if err != nil {
		return err
	}
	a, err := x.finish()
	if err != nil {
		return err
	}
	got, err := a.values()
	if err != nil {
		return err
	}
	return want("sum", got, []any{int64(1)<<40 - 5})
}

func checkValues(t *client) error {
	list := []any{nil, true, false, int64(0), int64(-1), int64(1) << 62, int64(-1) << 63, 1.0, -0.5, 1e300, "", "bytes \x00\xff",
		[]any{int64(1), "two", 3.5}, map[string]any{"deep": map[string]any{"er": []any{int64(1)}}}, nil}
	return wantCall(t, list, "values", list...)
}

func checkMany(t *client) error {
	results := make(chan error, 100)
	for i := 0; i < 100; i++ {
		go func(i int) { results <- wantCall(t, []any{int64(2 * i)}, "math.add", i, i) }(i)
	}
	for i := 0; i < 100; i++ {
		if err := <-results; err != nil {
			return err
		}
	}
	return nil
}

func answered(x *exchange, err error, expected ...any) error {
	if err != nil {
		return err
	}
	a, err := x.finish()
	if err != nil {
		return err
	}
	got, err := a.values()
	if err != nil {
		return err
	}
	return want("answer", got, expected)
}

func checkSplit(t *client) error {
	x, err := t.open(callOf("math.add", 3, 4), func(w io.Writer, frame []byte) error {
		for i := range frame {
			if _, err := w.Write(frame[i : i+1]); err != nil {
				return err
			}
			time.Sleep(time.Millisecond) // so that they travel apart
		}
		return nil
	})
	return answered(x, err, int64(7))
}

func checkOddFrame(t *client) error {
	x, err := t.open(callOf("math.add", 3, 4), func(w io.Writer, frame []byte) error {
		_, err := w.Write(append(putFrame(nil, 0x1f3, bytes.Repeat([]byte("x"), 3000)), frame...))
		return err
	})
	return answered(x, err, int64(7))
}

func checkFailCoded(t *client) error {
	_, err := t.call("fail.coded")
	if e := wantFailure(err, statusNotFound, "not_found"); e != nil {
		return e
	}
	f := err.(*failure)
	if e := want("message", f.message, "no such user"); e != nil {
		return e
	}
	if e := want("details", f.details, map[string]any{"id": int64(7)}); e != nil {
		return e
	}
	return want("processed", f.processed, uint64(2))
}

func checkFailRaised(t *client) error {
	_, err := t.call("fail.raised")
	var f *failure
	if !errors.As(err, &f) {
		return fmt.Errorf("no failure but %v", err)
	}
	if strings.Contains(f.message, "traceback") || strings.Contains(f.message, "\n") || strings.Contains(f.message, ".lua:") {
		return fmt.Errorf("the message tells about the inside: %q", f.message)
	}
	return want("processed", f.processed, uint64(2))
}

func checkEvents(t *client) error {
	expected := []any{}
	for i := 0; i < 50; i++ {
		text := fmt.Sprintf("event %d", i)
		expected = append(expected, text)
		if err := t.emit("log", text); err != nil {
			return err
		}
	}
	if err := t.emit("nobody.listens", 1); err != nil {
		return err
	}
	got := []any{}
	return eventually(func() error {
		more, err := t.call("log.take")
		if err != nil {
			return err
		}
		got = append(got, more...)
		return want("log", got, expected)
	})
}

var errSkipped = errors.New("skipped: the capability is not offered")

func checkDatagram(t *client) error {
	if t.theirs.caps&capDatagrams == 0 {
		return errSkipped
	}
	if err := t.emitDatagram("log", "by datagram"); err != nil {
		return err
	}
	return eventually(func() error {
		got, err := t.call("log.take")
		if err != nil {
			return err
		}
		return want("log", got, []any{"by datagram"})
	})
}

func openStream(t *client, name string) (*exchange, error) {
	return t.open(request{flags: flagMore | flagStream, method: name, priority: 3}, nil)
}

func checkStream(t *client) error {
	x, err := openStream(t, "echo")
	if err != nil {
		return err
	}
	messages := []string{"one", "", strings.Repeat("z", 40000), "four"}
	for i, m := range messages {
		d := data{flags: flagSeq | flagWallTime, seq: uint64(i), wallTime: 1700000000000000 + uint64(i), payload: []byte(m)}
		if err = x.send(d); err != nil {
			return err
		}
	}
	first, err := x.recv() // an answer while our side is still open
	if err != nil || first == nil {
		return fmt.Errorf("first message: %v", err)
	}
	if err = want("first", string(first.payload), "ONE"); err != nil {
		return err
	}
	if err = x.stream.Close(); err != nil {
		return err
	}
	for _, m := range messages[1:] {
		d, err := x.recv()
		if err != nil || d == nil {
			return fmt.Errorf("message: %v", err)
		}
		if err = want("message", string(d.payload), strings.ToUpper(m)); err != nil {
			return err
		}
	}
	if d, err := x.recv(); err != nil || d != nil {
		return fmt.Errorf("no RESPONSE but %v, %v", d, err)
	}
	return want("status", x.answer.status, uint64(statusOK))
}

func checkNoStream(t *client) error {
	x, err := openStream(t, "no.such.stream")
	if err != nil {
		return err
	}
	a, err := x.finish()
	if err != nil {
		return err
	}
	_, err = a.values()
	return wantFailure(err, statusNoMethod, "method_not_found")
}

func cancelledCount(t *client) (int64, error) {
	got, err := t.call("slow.cancelled")
	if err != nil {
		return 0, err
	}
	n, _ := got[0].(int64)
	return n, nil
}

// startSlow begins a call that sleeps 30 s, and waits until the server must have begun it.
func startSlow(t *client) (x *exchange, before int64, err error) {
	if before, err = cancelledCount(t); err != nil {
		return
	}
	if x, err = t.open(callOf("slow", 30.0), nil); err != nil {
		return
	}
	time.Sleep(100 * time.Millisecond)
	return
}

func cancelNoticed(t *client, before int64) error {
	return eventually(func() error {
		n, err := cancelledCount(t)
		if err != nil {
			return err
		}
		return want("handlers cancelled", n, before+1)
	})
}

func checkCancelAnswered(t *client) error {
	x, before, err := startSlow(t)
	if err != nil {
		return err
	}
	if err = t.sendControl(frameCancel, x.id, codeCancelled); err != nil {
		return err
	}
	a, err := x.finish()
	if err != nil {
		return err
	}
	if _, err = a.values(); wantFailure(err, statusCancelled, "cancelled") != nil {
		return err
	}
	return cancelNoticed(t, before)
}

func checkCancelStop(t *client) error {
	x, before, err := startSlow(t)
	if err != nil {
		return err
	}
	if err = t.sendControl(frameCancel, x.id, codeCancelled); err != nil {
		return err
	}
	x.stream.CancelRead(codeCancelled)
	return cancelNoticed(t, before)
}

func checkCancelEarly(t *client) error {
	r := callOf("slow", 30.0)
	r.id = t.newID()
	if err := t.sendControl(frameCancel, r.id, codeCancelled); err != nil {
		return err
	}
	time.Sleep(100 * time.Millisecond) // the control stream is another stream: let it be first
	x, err := t.open(r, nil)
	if err != nil {
		return err
	}
	a, err := x.finish()
	if err != nil {
		return err
	}
	_, err = a.values()
	return wantFailure(err, statusCancelled, "cancelled")
}

func checkCancelStream(t *client) error {
	x, err := openStream(t, "echo")
	if err != nil {
		return err
	}
	if err = x.send(data{payload: []byte("a")}); err != nil {
		return err
	}
	if d, err := x.recv(); err != nil || d == nil {
		return fmt.Errorf("echo: %v", err)
	}
	if err = t.sendControl(frameCancel, x.id, codeCancelled); err != nil {
		return err
	}
	x.stream.CancelWrite(codeCancelled)
	a, err := x.finish()
	if err != nil {
		return err
	}
	_, err = a.values()
	return wantFailure(err, statusCancelled, "")
}

func checkDeadline(t *client) error {
	r := callOf("slow", 30.0)
	r.deadline = 200
	begin := time.Now()
	x, err := t.open(r, nil)
	if err != nil {
		return err
	}
	a, err := x.finish()
	if err != nil {
		return err
	}
	if took := time.Since(begin); took < 150*time.Millisecond || took > 2*time.Second {
		return fmt.Errorf("answered after %v", took)
	}
	_, err = a.values()
	return wantFailure(err, statusTimeout, "timeout")
}

func checkPing(t *client) error {
	if t.theirs.caps&capClock == 0 {
		return errSkipped
	}
	now := uint64(time.Now().UnixMicro())
	if err := t.sendControl(framePing, now); err != nil {
		return err
	}
	select {
	case got := <-t.pongs:
		if got[0] != now || got[2] < got[1] || got[1]+60e6 < now || got[1] > now+60e6 {
			return fmt.Errorf("PONG %v for %d", got, now)
		}
		return nil
	case <-time.After(5 * time.Second):
		return errors.New("no PONG within 5 s")
	}
}

func checkEmitBack(t *client) error {
	if _, err := t.call("emit.back", "news", "hello", 5); err != nil {
		return err
	}
	select {
	case e := <-t.heard:
		got, err := decodeValues(e.payload)
		if err != nil {
			return err
		}
		return want(e.name, got, []any{"hello", int64(5)})
	case <-time.After(5 * time.Second):
		return errors.New("no event within 5 s")
	}
}

func checkUnknownUni(t *client) error {
	s, err := t.conn.OpenUniStream()
	if err != nil {
		return err
	}
	for i := 0; i < 500; i++ {
		if _, err = s.Write(append(putVarint(nil, 0x3f), "whatever"...)); err != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	code, ok := closedWith(err)
	if !ok || code != codeUnknownStream {
		return fmt.Errorf("ended with %v", err)
	}
	return wantCall(t, []any{int64(2)}, "math.add", 1, 1)
}

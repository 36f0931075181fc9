package main

// What this program offers: a little to the server it dialled, and with -serve everything that the checks ask for, so
// that both the checks and our clients have a foreign server.

import (
	"context"
	"io"
	"strings"
	"sync"
	"time"
)

// clientCalls is what the other side may call back.
var clientCalls = map[string]handler{
	"peer.mul": func(_ context.Context, _ *peer, args []any) ([]any, *failure) {
		a, ok1 := args[0].(int64)
		b, ok2 := args[1].(int64)
		if !ok1 || !ok2 {
			return nil, &failure{status: 3, code: "invalid_argument", message: "two integers, please", processed: 2}
		}
		return []any{a * b}, nil
	},
	"peer.fail": func(context.Context, *peer, []any) ([]any, *failure) {
		return nil, &failure{status: 7, code: "permission_denied", message: "not you", processed: 2, details: map[string]any{"who": "you"}}
	},
}

// echoStream gives every message back in capitals, with its seq and time, until the caller has finished.
func echoStream(_ context.Context, _ *peer, x *exchange) *failure {
	for {
		kind, content, err := x.frames.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return &failure{status: statusCancelled, code: "cancelled", message: "cancelled by the caller", processed: 1}
		}
		d, err := decodeData(content)
		if err != nil || kind != frameData {
			return &failure{status: 3, code: "invalid_argument", message: "DATA was due", processed: 2}
		}
		d.payload = []byte(strings.ToUpper(string(d.payload)))
		if err = x.send(d); err != nil {
			return nil
		}
	}
}

// serverSide is the state of -serve for one connection; the Lua server of quicgo_server.lua offers the same methods.
type serverSide struct {
	mu        sync.Mutex
	log       []any
	cancelled int64
}

func failCoded(context.Context, *peer, []any) ([]any, *failure) {
	return nil, &failure{status: statusNotFound, code: "not_found", message: "no such user", processed: 2, details: map[string]any{"id": int64(7)}}
}

func failRaised(context.Context, *peer, []any) ([]any, *failure) {
	return nil, &failure{status: statusUnknown, code: "unknown", message: "boom", processed: 2}
}

func (s *serverSide) slow(ctx context.Context, _ *peer, args []any) ([]any, *failure) {
	seconds, _ := args[0].(float64)
	select {
	case <-ctx.Done():
		s.mu.Lock()
		s.cancelled++
		s.mu.Unlock()
		return nil, &failure{status: statusCancelled, code: "cancelled", message: "cancelled", processed: 1}
	case <-time.After(time.Duration(seconds * float64(time.Second))):
		return []any{"slept"}, nil
	}
}

func (s *serverSide) peer(conn quicConn) *peer {
	p := &peer{conn: conn, calls: map[string]handler{}, streams: map[string]streamHandler{"echo": echoStream}}
	for name, h := range clientCalls {
		p.calls[name] = h
	}
	p.events = func(e event) {
		if args, err := decodeValues(e.payload); err == nil && e.name == "log" {
			s.mu.Lock()
			s.log = append(s.log, args[0])
			s.mu.Unlock()
		}
	}
	p.calls["math.add"] = func(_ context.Context, _ *peer, args []any) ([]any, *failure) {
		a, _ := args[0].(int64)
		b, _ := args[1].(int64)
		return []any{a + b}, nil
	}
	p.calls["values"] = func(_ context.Context, _ *peer, args []any) ([]any, *failure) { return args, nil }
	p.calls["nothing"] = func(context.Context, *peer, []any) ([]any, *failure) { return nil, nil }
	p.calls["fail.coded"], p.calls["fail.raised"], p.calls["slow"] = failCoded, failRaised, s.slow
	p.calls["slow.cancelled"] = func(context.Context, *peer, []any) ([]any, *failure) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return []any{s.cancelled}, nil
	}
	p.calls["log.take"] = func(context.Context, *peer, []any) ([]any, *failure) {
		s.mu.Lock()
		defer s.mu.Unlock()
		taken := s.log
		s.log = nil
		return taken, nil
	}
	p.calls["call.back"] = func(_ context.Context, p *peer, args []any) ([]any, *failure) {
		results, err := p.call(args[0].(string), args[1:]...)
		if f, ok := err.(*failure); ok {
			return []any{nil, f.code}, nil
		} else if err != nil {
			return nil, &failure{status: 13, code: "internal", message: err.Error(), processed: 2}
		}
		return results, nil
	}
	p.calls["emit.back"] = func(_ context.Context, p *peer, args []any) ([]any, *failure) {
		if err := p.emit(args[0].(string), args[1:]...); err != nil {
			return nil, &failure{status: 13, code: "internal", message: err.Error(), processed: 2}
		}
		return nil, nil
	}
	p.calls["stream.back"] = func(_ context.Context, p *peer, args []any) ([]any, *failure) {
		x, err := p.open(request{flags: flagMore | flagStream, method: args[0].(string), priority: 3}, nil)
		if err == nil {
			err = x.send(data{payload: []byte("from the server")})
		}
		if err != nil {
			return nil, &failure{status: 13, code: "internal", message: err.Error(), processed: 2}
		}
		d, err := x.recv()
		if err != nil || d == nil {
			return nil, &failure{status: 13, code: "internal", message: "no message came back", processed: 2}
		}
		x.stream.Close()
		return []any{string(d.payload)}, nil
	}
	return p
}

package main

// One side of a session, the same for who dialled and who accepted.

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// A handler gives the results of a call, or a failure to answer with.
type handler func(ctx context.Context, p *peer, args []any) ([]any, *failure)

type failure struct {
	status    uint64
	code      string
	message   string
	processed uint64
	details   any
}

func (f *failure) Error() string { return f.code + ": " + f.message }

// A streamHandler serves one named stream and returns when its side is done.
type streamHandler func(ctx context.Context, p *peer, x *exchange) *failure

type peer struct {
	conn    quicConn
	calls   map[string]handler
	streams map[string]streamHandler
	events  func(e event)

	mu        sync.Mutex
	control   quicSend
	lane      quicSend
	laneSeq   uint64
	lastID    uint64
	running   map[uint64]context.CancelFunc
	cancelled map[uint64]bool // CANCELs that overtook their request

	theirs   hello
	gotHello chan struct{}
	pongs    chan [3]uint64
	failed   chan error // the first violation that we saw
}

// start opens the control stream, says HELLO and serves what the peer opens. Fill calls, streams and events before.
func (p *peer) start() error {
	p.running, p.cancelled = map[uint64]context.CancelFunc{}, map[uint64]bool{}
	p.gotHello, p.pongs, p.failed = make(chan struct{}), make(chan [3]uint64, 4), make(chan error, 1)
	h := hello{caps: capDatagrams | capClock, params: []param{
		{1, putVarint(nil, 65536)}, {3, putVarint(nil, 100)}, {5, []byte("quic-go")}, {7, putVarint(nil, 16)}}}
	if _, err := rand.Read(h.instance[:]); err != nil {
		return err
	}
	var err error
	if p.control, err = p.conn.OpenUniStream(); err != nil {
		return err
	}
	if _, err = p.control.Write(putFrame(putVarint(nil, uniControl), frameHello, h.encode())); err != nil {
		return err
	}
	go p.acceptUni()
	go p.acceptExchanges()
	go p.datagrams()
	return nil
}

func (p *peer) violation(what string, err error) {
	select {
	case p.failed <- fmt.Errorf("%s: %w", what, err):
	default:
	}
	code := coded{code: codeProtocol}
	errors.As(err, &code)
	p.conn.CloseWithError(connCode(code.code), what)
}

func (p *peer) sendControl(kind uint64, fields ...uint64) error {
	var b []byte
	for _, v := range fields {
		b = putVarint(b, v)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := p.control.Write(putFrame(nil, kind, b))
	return err
}

// Unidirectional streams and datagrams -------------------------------------------------------------------------------

func (p *peer) acceptUni() {
	controls := 0
	for {
		s, err := p.conn.AcceptUniStream(context.Background())
		if err != nil {
			return
		}
		f := newFrameReader(s)
		kind, err := f.varint()
		switch {
		case err != nil:
		case kind == uniControl:
			if controls++; controls > 1 {
				p.violation("control", errors.New("a second control stream"))
				return
			}
			go p.readControl(f)
		case kind == uniLane:
			go p.readLane(f)
		default:
			s.CancelRead(codeUnknownStream)
		}
	}
}

func (p *peer) readControl(f *frameReader) {
	for first := true; ; first = false {
		kind, content, err := f.next()
		if err == nil && first != (kind == frameHello) {
			err = coded{codeHello, fmt.Errorf("frame %#x first: %v", kind, first)}
		}
		if err == nil {
			err = p.controlFrame(kind, content)
		}
		if err != nil {
			if err == io.EOF {
				err = coded{codeClosedControl, err}
			}
			if p.conn.Context().Err() == nil {
				p.violation("control", err)
			}
			return
		}
	}
}

func (p *peer) controlFrame(kind uint64, content []byte) (err error) {
	b := &body{rest: content}
	switch kind {
	case frameHello:
		if p.theirs, err = decodeHello(content); err != nil {
			return coded{codeHello, err}
		}
		close(p.gotHello)
		return nil
	case frameCancel:
		id, _ := b.varint(), b.varint()
		p.mu.Lock()
		if stop := p.running[id]; stop != nil {
			stop()
		} else if len(p.cancelled) < 256 {
			p.cancelled[id] = true
		}
		p.mu.Unlock()
	case framePing:
		t1, t2 := b.varint(), uint64(time.Now().UnixMicro())
		if p.theirs.caps&capClock != 0 {
			go p.sendControl(framePong, t1, t2, uint64(time.Now().UnixMicro()))
		}
	case framePong:
		t := [3]uint64{b.varint(), b.varint(), b.varint()}
		select {
		case p.pongs <- t:
		default:
		}
	case frameGoaway:
		b.varint()
		b.varint()
		_ = b.str()
	default:
		return fmt.Errorf("frame %#x on the control stream", kind)
	}
	return b.end()
}

func (p *peer) readLane(f *frameReader) {
	for seq := uint64(0); ; seq++ {
		kind, content, err := f.next()
		if err != nil {
			return
		}
		e, err := decodeEvent(content)
		if err == nil && (kind != frameEvent || e.seq != seq) {
			err = fmt.Errorf("frame %#x with seq %d, not event %d", kind, e.seq, seq)
		}
		if err != nil {
			p.violation("lane", err)
			return
		}
		if p.events != nil {
			p.events(e)
		}
	}
}

func (p *peer) datagrams() {
	for {
		content, err := receiveDatagram(p.conn)
		if err != nil {
			return
		}
		b := &body{rest: content}
		if b.varint() != frameEvent || b.err != nil {
			continue
		}
		if e, err := decodeEvent(b.rest); err == nil && p.events != nil {
			p.events(e)
		}
	}
}

// emit puts an event on lane 0.
func (p *peer) emit(name string, args ...any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var b []byte
	if p.lane == nil {
		s, err := p.conn.OpenUniStream()
		if err != nil {
			return err
		}
		p.lane, b = s, putVarint(nil, uniLane)
	}
	e := event{codec: codecMsgpack, seq: p.laneSeq, name: name, payload: encodeValues(args...)}
	p.laneSeq++
	_, err := p.lane.Write(putFrame(b, frameEvent, e.encode()))
	return err
}

func (p *peer) emitDatagram(name string, args ...any) error {
	e := event{codec: codecMsgpack, name: name, payload: encodeValues(args...)}
	return sendDatagram(p.conn, append(putVarint(nil, frameEvent), e.encode()...))
}

// Exchanges: the caller ------------------------------------------------------------------------------------------------

type exchange struct {
	p      *peer
	stream quicStream
	frames *frameReader
	id     uint64
	head   map[string]string // of HEAD, when one came
	answer *response
}

func (p *peer) newID() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lastID++
	return p.lastID
}

// open starts an exchange; write puts the REQUEST on the stream in one piece unless it is told otherwise.
func (p *peer) open(r request, write func(w io.Writer, frame []byte) error) (*exchange, error) {
	if r.id == 0 {
		r.id = p.newID()
	}
	if write == nil {
		write = func(w io.Writer, frame []byte) error { _, err := w.Write(frame); return err }
	}
	s, err := p.conn.OpenStream()
	if err != nil {
		return nil, err
	}
	x := &exchange{p: p, stream: s, frames: newFrameReader(s), id: r.id}
	if err = write(s, putFrame(nil, frameRequest, r.encode())); err == nil && r.flags&flagMore == 0 {
		s.Close() // fails when the answer and its STOP_SENDING came before our FIN
	}
	return x, err
}

func callOf(method string, args ...any) request {
	return request{codec: codecMsgpack, method: method, deadline: 10000, priority: 3, payload: encodeValues(args...)}
}

// send writes one message.
func (x *exchange) send(d data) error {
	_, err := x.stream.Write(putFrame(nil, frameData, d.encode()))
	return err
}

// recv gives the next message; nil when the RESPONSE came, which is in x.answer then.
func (x *exchange) recv() (*data, error) {
	for {
		kind, content, err := x.frames.next()
		if err != nil {
			if err == io.EOF {
				err = errors.New("the stream ended without a RESPONSE")
			}
			return nil, err
		}
		switch kind {
		case frameHead:
			b := &body{rest: content}
			b.varint()
			x.head = b.metadata()
			if err = b.end(); err != nil {
				return nil, err
			}
		case frameData:
			d, err := decodeData(content)
			return &d, err
		case frameResponse:
			r, err := decodeResponse(content)
			if err != nil {
				return nil, err
			}
			if _, _, err = x.frames.next(); err != io.EOF {
				return nil, fmt.Errorf("after the RESPONSE: %v", err)
			}
			x.answer = &r
			return nil, nil
		default:
			return nil, fmt.Errorf("frame %#x in an answer", kind)
		}
	}
}

// finish waits for the RESPONSE, at most 10 s.
func (x *exchange) finish() (*response, error) {
	x.stream.SetReadDeadline(time.Now().Add(10 * time.Second))
	d, err := x.recv()
	if err == nil && d != nil {
		err = errors.New("DATA in the answer of a call")
	}
	return x.answer, err
}

// call does a whole call; a RESPONSE with a status becomes a *failure.
func (p *peer) call(method string, args ...any) ([]any, error) {
	x, err := p.open(callOf(method, args...), nil)
	if err != nil {
		return nil, err
	}
	r, err := x.finish()
	if err != nil {
		return nil, err
	}
	return r.values()
}

func (r *response) values() ([]any, error) {
	if r.status == statusOK {
		return decodeValues(r.payload)
	}
	f := &failure{status: r.status, code: r.code, message: r.message, processed: r.processed}
	if len(r.payload) > 0 {
		b := &body{rest: r.payload}
		f.details = b.value(0)
		if err := b.end(); err != nil {
			return nil, err
		}
	}
	return nil, f
}

// Exchanges: the responder ---------------------------------------------------------------------------------------------

func (p *peer) acceptExchanges() {
	for {
		s, err := p.conn.AcceptStream(context.Background())
		if err != nil {
			return
		}
		go p.serve(&exchange{p: p, stream: s, frames: newFrameReader(s)})
	}
}

func (p *peer) serve(x *exchange) {
	kind, content, err := x.frames.next()
	if err != nil {
		if _, reset := closedWith(err); reset { // given up before it began
			x.stream.Close()
			return
		}
		p.violation("exchange", err)
		return
	}
	r, err := decodeRequest(content)
	if err != nil || kind != frameRequest {
		p.violation("exchange", fmt.Errorf("frame %#x: %v", kind, err))
		return
	}
	x.id = r.id
	ctx, stop := context.WithCancel(context.Background())
	if r.deadline != 0 {
		ctx, stop = context.WithTimeout(context.Background(), time.Duration(r.deadline)*time.Millisecond)
	}
	defer stop()
	p.mu.Lock()
	if p.cancelled[r.id] {
		delete(p.cancelled, r.id)
		stop()
	}
	p.running[r.id] = stop
	p.mu.Unlock()

	answer := p.run(ctx, x, &r)
	p.mu.Lock()
	delete(p.running, r.id)
	p.mu.Unlock()
	x.stream.Write(putFrame(nil, frameResponse, answer.encode()))
	x.stream.Close()
	x.stream.CancelRead(codeNoMoreWanted) // does nothing when everything was read
}

// run answers at the latest when the exchange is cancelled or its time is over, whatever the handler does.
func (p *peer) run(ctx context.Context, x *exchange, r *request) *response {
	type outcome struct {
		results []any
		fail    *failure
	}
	done := make(chan outcome, 1)
	go func() {
		var o outcome
		if serve := p.streams[r.method]; serve != nil && r.flags&(flagMore|flagStream) == flagMore|flagStream {
			o.fail = serve(ctx, p, x)
		} else if call := p.calls[r.method]; call != nil && r.flags&(flagMore|flagStream) == 0 {
			args, err := decodeValues(r.payload)
			if err != nil {
				o.fail = &failure{status: 3, code: "serialization", message: err.Error()}
			} else {
				o.results, o.fail = call(ctx, p, args)
			}
		} else {
			o.fail = &failure{status: statusNoMethod, code: "method_not_found", message: "no method " + r.method}
		}
		done <- o
	}()
	var o outcome
	select {
	case o = <-done:
	case <-ctx.Done():
		o.fail = &failure{status: statusCancelled, code: "cancelled", message: "cancelled by the caller", processed: 1}
		if ctx.Err() == context.DeadlineExceeded {
			o.fail = &failure{status: statusTimeout, code: "timeout", message: "the deadline has passed", processed: 1}
		}
	}
	if o.fail == nil {
		return &response{codec: codecMsgpack, payload: encodeValues(o.results...)}
	}
	a := &response{codec: codecMsgpack, status: o.fail.status, code: o.fail.code, message: o.fail.message, processed: o.fail.processed}
	if o.fail.details != nil {
		a.payload = putValue(nil, o.fail.details)
	}
	return a
}

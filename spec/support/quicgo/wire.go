package main

// The wire format of echostream/1, written from docs/PROTOCOL.md alone and sharing nothing with the implementation it
// is tested against.

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"sort"
)

const (
	frameHello    = 0x00
	frameRequest  = 0x02
	frameResponse = 0x04
	frameHead     = 0x06
	frameData     = 0x08
	frameCancel   = 0x0a
	frameEvent    = 0x0c
	frameGoaway   = 0x0e
	framePing     = 0x11
	framePong     = 0x13

	flagMore       = 0x01
	flagStream     = 0x02
	flagIdempotent = 0x04
	flagRetry      = 0x08
	flagZstd       = 0x10
	flagCRC        = 0x20
	flagSeq        = 0x40
	flagWallTime   = 0x80
	flagMethodIdem = 0x100

	capDatagrams = 4
	capClock     = 8

	codecRaw     = 0
	codecMsgpack = 1

	uniControl = 0
	uniLane    = 1

	codeProtocol      = 0x02
	codeTooLarge      = 0x03
	codeClosedControl = 0x04
	codeHello         = 0x06
	codeUnknownStream = 0x08
	codeCancelled     = 0x10
	codeDeadline      = 0x12
	codeNoMoreWanted  = 0x13

	statusOK        = 0
	statusCancelled = 1
	statusUnknown   = 2
	statusTimeout   = 4
	statusNotFound  = 5
	statusExhausted = 8
	statusNoMethod  = 12

	maxBody = 65536 + 20*1024
)

var errShort = errors.New("the body ends too early")

// A coded error closes the connection with that application error code; others do with codeProtocol.
type coded struct {
	code uint64
	error
}

// Writing ----------------------------------------------------------------------------------------------------------

func putVarint(b []byte, v uint64) []byte {
	switch {
	case v < 1<<6:
		return append(b, byte(v))
	case v < 1<<14:
		return append(b, byte(v>>8)|0x40, byte(v))
	case v < 1<<30:
		return append(b, byte(v>>24)|0x80, byte(v>>16), byte(v>>8), byte(v))
	case v < 1<<62:
		return append(b, byte(v>>56)|0xc0, byte(v>>48), byte(v>>40), byte(v>>32), byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
	}
	panic("a varint has 62 bits")
}

func putString(b []byte, s string) []byte {
	return append(putVarint(b, uint64(len(s))), s...)
}

func putMetadata(b []byte, kv map[string]string) []byte {
	keys := make([]string, 0, len(kv))
	for k := range kv {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	b = putVarint(b, uint64(len(keys)))
	for _, k := range keys {
		b = putString(putString(b, k), kv[k])
	}
	return b
}

func putFrame(b []byte, kind uint64, body []byte) []byte {
	b = putVarint(b, kind)
	b = putVarint(b, uint64(len(body)))
	return append(b, body...)
}

// Reading ----------------------------------------------------------------------------------------------------------

// body takes the fields of one frame in order; the first failure stays.
type body struct {
	rest []byte
	err  error
}

func (b *body) bytes(n uint64) []byte {
	if b.err != nil || uint64(len(b.rest)) < n {
		b.err = errShort
		return nil
	}
	out := b.rest[:n]
	b.rest = b.rest[n:]
	return out
}

func (b *body) varint() uint64 {
	first := b.bytes(1)
	if first == nil {
		return 0
	}
	v := uint64(first[0] & 0x3f)
	for _, c := range b.bytes(1<<(first[0]>>6) - 1) {
		v = v<<8 | uint64(c)
	}
	return v
}

func (b *body) str() string { return string(b.bytes(b.varint())) }

func (b *body) metadata() map[string]string {
	kv := map[string]string{}
	for n := b.varint(); n > 0 && b.err == nil; n-- {
		k := b.str()
		if _, twice := kv[k]; twice {
			b.err = fmt.Errorf("metadata key %q twice", k)
		}
		kv[k] = b.str()
	}
	return kv
}

func (b *body) all() []byte {
	out := b.rest
	b.rest = nil
	return out
}

// end fails when fields are missing or bytes are left.
func (b *body) end() error {
	if b.err == nil && len(b.rest) != 0 {
		b.err = fmt.Errorf("%d bytes after the last field", len(b.rest))
	}
	return b.err
}

// A frameReader gives the known frames of a stream and skips unknown odd ones.
type frameReader struct{ r *bufio.Reader }

func newFrameReader(r io.Reader) *frameReader { return &frameReader{bufio.NewReader(r)} }

func (f *frameReader) varint() (uint64, error) {
	first, err := f.r.ReadByte()
	if err != nil {
		return 0, err
	}
	v := uint64(first & 0x3f)
	for n := 1<<(first>>6) - 1; n > 0; n-- {
		c, err := f.r.ReadByte()
		if err != nil {
			return 0, unexpected(err)
		}
		v = v<<8 | uint64(c)
	}
	return v, nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// next returns io.EOF only between frames.
func (f *frameReader) next() (kind uint64, content []byte, err error) {
	for {
		if kind, err = f.varint(); err != nil {
			return 0, nil, err
		}
		length, err := f.varint()
		if err != nil {
			return 0, nil, unexpected(err)
		}
		known := kind <= frameGoaway && kind%2 == 0 || kind == framePing || kind == framePong
		if !known && kind%2 == 1 {
			if _, err = io.CopyN(io.Discard, f.r, int64(length)); err != nil {
				return 0, nil, unexpected(err)
			}
			continue
		}
		if !known {
			return 0, nil, fmt.Errorf("unknown frame type %#x", kind)
		}
		if length > maxBody {
			return 0, nil, coded{codeTooLarge, fmt.Errorf("a frame of %d bytes", length)}
		}
		content = make([]byte, length)
		_, err = io.ReadFull(f.r, content)
		return kind, content, unexpected(err)
	}
}

// Frames -----------------------------------------------------------------------------------------------------------

type hello struct {
	minMinor, maxMinor, caps uint64
	instance                 [16]byte
	params                   []param
}

type param struct {
	id    uint64
	value []byte
}

func (h *hello) encode() []byte {
	b := putVarint(putVarint(putVarint(nil, h.minMinor), h.maxMinor), h.caps)
	b = append(b, h.instance[:]...)
	b = putVarint(b, uint64(len(h.params)))
	for _, p := range h.params {
		b = putString(putVarint(b, p.id), string(p.value))
	}
	return b
}

func decodeHello(content []byte) (h hello, err error) {
	b := &body{rest: content}
	h.minMinor, h.maxMinor, h.caps = b.varint(), b.varint(), b.varint()
	copy(h.instance[:], b.bytes(16))
	for n := b.varint(); n > 0 && b.err == nil; n-- {
		h.params = append(h.params, param{b.varint(), []byte(b.str())})
	}
	return h, b.end()
}

func (h *hello) number(id, absent uint64) uint64 {
	for _, p := range h.params {
		if p.id == id {
			return (&body{rest: p.value}).varint()
		}
	}
	return absent
}

type request struct {
	flags, codec, id   uint64
	method             string
	deadline, priority uint64
	metadata           map[string]string
	payload            []byte
}

func (r *request) encode() []byte {
	b := putVarint(putVarint(putVarint(nil, r.flags), r.codec), r.id)
	b = putString(b, r.method)
	b = putVarint(putVarint(b, r.deadline), r.priority)
	return append(putMetadata(b, r.metadata), r.payload...)
}

func decodeRequest(content []byte) (r request, err error) {
	b := &body{rest: content}
	r.flags, r.codec, r.id, r.method = b.varint(), b.varint(), b.varint(), b.str()
	r.deadline, r.priority, r.metadata = b.varint(), b.varint(), b.metadata()
	if err = flagsOnly(r.flags, flagMore|flagStream|flagIdempotent|flagRetry); err != nil {
		return r, err
	}
	r.payload = b.all()
	return r, b.end()
}

type response struct {
	flags, codec, status uint64
	trailers             map[string]string
	code, message        string
	processed, retry     uint64
	payload              []byte // of a failure: the details
}

func (r *response) encode() []byte {
	b := putVarint(putVarint(putVarint(nil, r.flags), r.codec), r.status)
	b = putMetadata(b, r.trailers)
	if r.status != statusOK {
		b = putString(putString(b, r.code), r.message)
		b = putVarint(putVarint(b, r.processed), r.retry)
	}
	return append(b, r.payload...)
}

func decodeResponse(content []byte) (r response, err error) {
	b := &body{rest: content}
	r.flags, r.codec, r.status, r.trailers = b.varint(), b.varint(), b.varint(), b.metadata()
	if r.status != statusOK {
		r.code, r.message, r.processed, r.retry = b.str(), b.str(), b.varint(), b.varint()
	}
	if r.status > 16 {
		return r, fmt.Errorf("status %d", r.status)
	}
	if err = flagsOnly(r.flags, flagMethodIdem); err != nil {
		return r, err
	}
	r.payload = b.all()
	return r, b.end()
}

// flagsOnly: bits from 16 up are ignored, of the others only those that the frame has may be set.
func flagsOnly(flags, allowed uint64) error {
	if flags&0xffff&^allowed != 0 {
		return fmt.Errorf("flags %#x", flags)
	}
	return nil
}

type data struct {
	flags, codec, seq, wallTime uint64
	payload                     []byte
}

func (d *data) encode() []byte {
	b := putVarint(putVarint(nil, d.flags), d.codec)
	if d.flags&flagSeq != 0 {
		b = putVarint(b, d.seq)
	}
	if d.flags&flagWallTime != 0 {
		b = putVarint(b, d.wallTime)
	}
	return append(b, d.payload...)
}

func decodeData(content []byte) (d data, err error) {
	b := &body{rest: content}
	d.flags, d.codec = b.varint(), b.varint()
	if d.flags&flagSeq != 0 {
		d.seq = b.varint()
	}
	if d.flags&flagWallTime != 0 {
		d.wallTime = b.varint()
	}
	if err = flagsOnly(d.flags, flagSeq|flagWallTime); err != nil {
		return d, err
	}
	d.payload = b.all()
	return d, b.end()
}

type event struct {
	flags, codec, seq uint64
	name              string
	wallTime          uint64
	metadata          map[string]string
	payload           []byte
}

func (e *event) encode() []byte {
	b := putVarint(putVarint(putVarint(nil, e.flags), e.codec), e.seq)
	b = putString(b, e.name)
	if e.flags&flagWallTime != 0 {
		b = putVarint(b, e.wallTime)
	}
	return append(putMetadata(b, e.metadata), e.payload...)
}

func decodeEvent(content []byte) (e event, err error) {
	b := &body{rest: content}
	e.flags, e.codec, e.seq, e.name = b.varint(), b.varint(), b.varint(), b.str()
	if e.flags&flagWallTime != 0 {
		e.wallTime = b.varint()
	}
	e.metadata = b.metadata()
	if err = flagsOnly(e.flags, flagWallTime); err != nil {
		return e, err
	}
	e.payload = b.all()
	return e, b.end()
}

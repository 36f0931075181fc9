package main

// MessagePack as section 10 of docs/PROTOCOL.md wants it. Values: nil, bool, int64, float64, string, []any,
// map[string]any.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sort"
)

func putInt(b []byte, v int64) []byte {
	switch {
	case v >= -32 && v <= 127:
		return append(b, byte(v))
	case v > 0 && v <= math.MaxUint8:
		return append(b, 0xcc, byte(v))
	case v > 0 && v <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, 0xcd), uint16(v))
	case v > 0 && v <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, 0xce), uint32(v))
	case v > 0:
		return binary.BigEndian.AppendUint64(append(b, 0xcf), uint64(v))
	case v >= math.MinInt8:
		return append(b, 0xd0, byte(v))
	case v >= math.MinInt16:
		return binary.BigEndian.AppendUint16(append(b, 0xd1), uint16(v))
	case v >= math.MinInt32:
		return binary.BigEndian.AppendUint32(append(b, 0xd2), uint32(v))
	}
	return binary.BigEndian.AppendUint64(append(b, 0xd3), uint64(v))
}

// putLength writes the head of a str, array or map: fix is its short form, which holds up to max, wide the 16-bit
// form, followed by the 32-bit one.
func putLength(b []byte, n int, fix byte, max int, wide byte) []byte {
	switch {
	case n <= max:
		return append(b, fix|byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, wide), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(b, wide+1), uint32(n))
}

func putValue(b []byte, value any) []byte {
	switch v := value.(type) {
	case nil:
		return append(b, 0xc0)
	case bool:
		if v {
			return append(b, 0xc3)
		}
		return append(b, 0xc2)
	case int:
		return putInt(b, int64(v))
	case int64:
		return putInt(b, v)
	case float64:
		return binary.BigEndian.AppendUint64(append(b, 0xcb), math.Float64bits(v))
	case string:
		if len(v) > 31 && len(v) <= math.MaxUint8 {
			b = append(b, 0xd9, byte(len(v)))
		} else {
			b = putLength(b, len(v), 0xa0, 31, 0xda)
		}
		return append(b, v...)
	case []any:
		b = putLength(b, len(v), 0x90, 15, 0xdc)
		for _, item := range v {
			b = putValue(b, item)
		}
		return b
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		b = putLength(b, len(v), 0x80, 15, 0xde)
		for _, k := range keys {
			b = putValue(putValue(b, k), v[k])
		}
		return b
	}
	panic(fmt.Sprintf("cannot encode a %T", value))
}

func (b *body) uint(n uint64) uint64 {
	var v uint64
	for _, c := range b.bytes(n) {
		v = v<<8 | uint64(c)
	}
	return v
}

func (b *body) fail(err error) any {
	if b.err == nil {
		b.err = err
	}
	return nil
}

func (b *body) array(n uint64, depth int) any {
	if uint64(len(b.rest)) < n {
		return b.fail(errShort)
	}
	list := make([]any, 0, n)
	for ; n > 0 && b.err == nil; n-- {
		list = append(list, b.value(depth+1))
	}
	return list
}

func (b *body) mapping(n uint64, depth int) any {
	m := map[string]any{}
	for ; n > 0 && b.err == nil; n-- {
		k, ok := b.value(depth + 1).(string)
		if !ok {
			return b.fail(errors.New("a map key that is not a string"))
		}
		m[k] = b.value(depth + 1)
	}
	return m
}

func (b *body) value(depth int) any {
	if depth > 64 {
		return b.fail(errors.New("nested too deep"))
	}
	head := b.bytes(1)
	if head == nil {
		return nil
	}
	switch c := head[0]; {
	case c < 0x80 || c >= 0xe0:
		return int64(int8(c))
	case c < 0x90:
		return b.mapping(uint64(c&0x0f), depth)
	case c < 0xa0:
		return b.array(uint64(c&0x0f), depth)
	case c < 0xc0:
		return string(b.bytes(uint64(c & 0x1f)))
	case c == 0xc0:
		return nil
	case c == 0xc2 || c == 0xc3:
		return c == 0xc3
	case c >= 0xc4 && c <= 0xc6:
		return string(b.bytes(b.uint(1 << (c - 0xc4))))
	case c == 0xca:
		return float64(math.Float32frombits(uint32(b.uint(4))))
	case c == 0xcb:
		return math.Float64frombits(b.uint(8))
	case c >= 0xcc && c <= 0xcf:
		v := b.uint(1 << (c - 0xcc))
		if v > math.MaxInt64 {
			return b.fail(errors.New("an integer above 2^63 - 1"))
		}
		return int64(v)
	case c == 0xd0:
		return int64(int8(b.uint(1)))
	case c == 0xd1:
		return int64(int16(b.uint(2)))
	case c == 0xd2:
		return int64(int32(b.uint(4)))
	case c == 0xd3:
		return int64(b.uint(8))
	case c >= 0xd9 && c <= 0xdb:
		return string(b.bytes(b.uint(1 << (c - 0xd9))))
	case c == 0xdc || c == 0xdd:
		return b.array(b.uint(2<<(c-0xdc)), depth)
	case c == 0xde || c == 0xdf:
		return b.mapping(b.uint(2<<(c-0xde)), depth)
	default:
		return b.fail(fmt.Errorf("MessagePack byte %#x", c))
	}
}

// encodeValues: the payload of a REQUEST, RESPONSE or EVENT.
func encodeValues(values ...any) []byte { return putValue(nil, values) }

func decodeValues(payload []byte) ([]any, error) {
	b := &body{rest: payload}
	list, ok := b.value(0).([]any)
	if err := b.end(); err != nil {
		return nil, err
	}
	if !ok {
		return nil, errors.New("the payload is not an array")
	}
	return list, nil
}

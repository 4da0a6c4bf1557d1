package seal

import (
	"encoding/binary"
	"time"
)

// recordVersion is the first byte of every sealed record.
const recordVersion = 1

// A Record is what is sealed: fields one after the other, without names. Each kind
// of record has a prefix of its own ([Ring.Seal]), so that one is not read as
// another.
type Record struct{ b []byte }

// NewRecord returns an empty record.
func NewRecord() Record { return Record{b: append(make([]byte, 0, 512), recordVersion)} }

// Bytes returns the record.
func (r *Record) Bytes() []byte { return r.b }

// Text appends strings of any length.
func (r *Record) Text(fields ...string) {
	for _, s := range fields {
		r.b = append(binary.AppendUvarint(r.b, uint64(len(s))), s...)
	}
}

// List appends a list of strings.
func (r *Record) List(list []string) {
	r.Number(uint64(len(list)))
	r.Text(list...)
}

// Number appends a number.
func (r *Record) Number(n uint64) { r.b = binary.AppendUvarint(r.b, n) }

// Raw appends bytes whose number the reader knows.
func (r *Record) Raw(b []byte) { r.b = append(r.b, b...) }

// Time appends a time to the microsecond, as stores keep it. The zero time stays
// zero.
func (r *Record) Time(t time.Time) {
	if t.IsZero() {
		r.b = binary.AppendVarint(r.b, 0)
		return
	}
	r.b = binary.AppendVarint(r.b, t.UnixMicro())
}

// A Reader reads a record, in the order in which it was written. After a mistake it
// returns zero values, and Done reports false.
type Reader struct {
	b      string
	failed bool
}

// ReadRecord reads the record of [Ring.Open].
func ReadRecord(record string) Reader {
	d := Reader{b: record}
	if v := d.Raw(1); len(v) != 1 || v[0] != recordVersion {
		d.failed = true
	}
	return d
}

// Raw returns the next n bytes.
func (d *Reader) Raw(n int) string {
	if d.failed || n < 0 || n > len(d.b) {
		d.failed = true
		return ""
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

// Number returns the next number.
func (d *Reader) Number() uint64 {
	v, n := binary.Uvarint([]byte(d.b[:min(len(d.b), binary.MaxVarintLen64)]))
	if d.failed || n <= 0 {
		d.failed = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *Reader) length() int {
	v := d.Number()
	if v > uint64(len(d.b)) {
		d.failed = true
		return 0
	}
	return int(v)
}

// Text returns the next string.
func (d *Reader) Text() string { return d.Raw(d.length()) }

// List returns the next list, nil if it is empty.
func (d *Reader) List() []string {
	n := d.length()
	if n == 0 {
		return nil
	}
	list := make([]string, 0, n)
	for range n {
		list = append(list, d.Text())
	}
	return list
}

// Time returns the next time, in UTC.
func (d *Reader) Time() time.Time {
	v, n := binary.Varint([]byte(d.b[:min(len(d.b), binary.MaxVarintLen64)]))
	if d.failed || n <= 0 {
		d.failed = true
		return time.Time{}
	}
	d.b = d.b[n:]
	if v == 0 {
		return time.Time{}
	}
	return time.UnixMicro(v).UTC()
}

// Done reports whether all of the record was read, and no more.
func (d *Reader) Done() bool { return !d.failed && len(d.b) == 0 }

package redisstore

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/curfew-oidc/curfew/store"
)

// The keys of a bucket begin with "curfew:{2f}:" and go on with
//
//	s:ID        the session, a record
//	i:0:TERM    IDs of the unended sessions that are found by a term
//	i:1:TERM    IDs of the ended ones
//	q:due       time and ID of the sessions that are due some time, but for those
//	q:claims    that are claimed: until when, time, and ID,
//	q:claimed   and time and ID
//	g           how many unended sessions were removed
//	f           the fences, by the term of their subject
//	f:due       time and subject of those that a sweeper has to look at some time
//
// The i, q and f:due are sorted sets in which all scores are equal: the order is that
// of the bytes. A term is "" for all, or a letter, ':' and a name.
const keyPrefix = "curfew:"

func bucketPrefix(bucket string) string { return keyPrefix + "{" + bucket + "}:" }

func sessionKey(id string) string { return bucketPrefix(id[:2]) + "s:" + id }

func indexKey(bucket string, ended bool, term string) string {
	return bucketPrefix(bucket) + "i:" + string(endedByte(ended)) + ":" + term
}

func queueKeys(bucket string) []string {
	p := bucketPrefix(bucket)
	return []string{p + "q:due", p + "q:claims", p + "q:claimed"}
}

func fencesKey(bucket string) string { return bucketPrefix(bucket) + "f" }

func fencesDueKey(bucket string) string { return bucketPrefix(bucket) + "f:due" }

func generationKey(bucket string) string { return bucketPrefix(bucket) + "g" }

const buckets = 256

func bucketName(n int) string { return fmt.Sprintf("%02x", n) }

// inBucket reports whether an ID begins with a bucket: one that does not is not
// in the store.
func inBucket(id string) bool {
	return len(id) >= 2 && isDigit(id[0]) && isDigit(id[1])
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' }

// A record is
//
//	claimed until  8 bytes, 0: it is not
//	revision       8 bytes
//	ended          '0' or '1'
//	due            8 bytes, 0: never
//	terms          their length in 4 bytes, and each after its length
//	document
//
// The head of a record is from the revision to the terms.
const (
	claimSize    = 8
	revisionSize = 8
	timeSize     = 8
	termsAt      = claimSize + revisionSize + 1 + timeSize
)

// A head is what a record says without its document.
type head struct {
	raw      string
	revision int64
	ended    bool
	terms    []string
}

var errRecord = fmt.Errorf("%w: the record is damaged", store.ErrUnreadable)

const fixedHead = termsAt - claimSize + 4 // without the terms

// headSize returns how long a head is, with its terms.
func headSize(b string) (int, error) {
	if len(b) < fixedHead {
		return 0, errRecord
	}
	n := binary.BigEndian.Uint32([]byte(b[fixedHead-4 : fixedHead]))
	if uint64(n) > uint64(len(b)-fixedHead) {
		return 0, errRecord
	}
	return fixedHead + int(n), nil
}

func headRevision(b string) int64 { return int64(binary.BigEndian.Uint64([]byte(b[:revisionSize]))) }

// parseHead parses a head, whatever follows it.
func parseHead(b string) (head, error) {
	n, err := headSize(b)
	if err != nil {
		return head{}, err
	}
	h := head{raw: b[:n], revision: headRevision(b), ended: b[revisionSize] == '1'}
	for rest := []byte(h.raw[fixedHead:]); len(rest) > 0; {
		size, used := binary.Uvarint(rest)
		if used <= 0 || size > uint64(len(rest)-used) {
			return head{}, errRecord
		}
		h.terms = append(h.terms, string(rest[used:used+int(size)]))
		rest = rest[used+int(size):]
	}
	if len(h.terms) == 0 { // every session has a subject
		return head{}, errRecord
	}
	return h, nil
}

// headOf returns a record from its head on.
func headOf(record string) string { return record[min(claimSize, len(record)):] }

// parseFenced returns the session of a record with the fence of its subject; "" is
// none.
func parseFenced(record, fence string) (store.Session, error) {
	s, err := parseRecord(record)
	if err == nil && fence != "" {
		s.Fence, err = parseFence(fence)
		s.Fence.Revision = 0
	}
	return s, err
}

// parseRecord returns the session of a record.
func parseRecord(record string) (store.Session, error) {
	b := headOf(record)
	n, err := headSize(b)
	if err != nil {
		return store.Session{}, err
	}
	s, err := store.ParseDocument(b[n:])
	if err != nil {
		return store.Session{}, err
	}
	s.Revision = headRevision(b)
	return s, nil
}

// A row is a session as it is written.
type row struct {
	id, bucket string
	ended      bool
	terms      []string
	record     []byte
	head       int // how long the record is without the document
}

func newRow(s *store.Session, revision int64) (row, error) {
	if len(s.ID) < 2 {
		return row{}, s.Validate() // which refuses it
	}
	r := row{id: s.ID, bucket: s.ID[:2], ended: s.End != nil, terms: terms(s)}
	b := make([]byte, claimSize, 2048)
	b = binary.BigEndian.AppendUint64(b, uint64(revision))
	b = append(b, endedByte(r.ended))
	if s.Due.IsZero() {
		b = append(b, make([]byte, timeSize)...)
	} else {
		b = append(b, sortable(s.Due)...)
	}
	b = append(b, 0, 0, 0, 0) // the length
	for _, term := range r.terms {
		b = binary.AppendUvarint(b, uint64(len(term)))
		b = append(b, term...)
	}
	binary.BigEndian.PutUint32(b[termsAt:], uint32(len(b)-termsAt-4))
	r.head = len(b)
	var err error
	r.record, err = s.AppendDocument(b)
	return r, err
}

// unclaimed returns how the record of a session begins that is not claimed, has
// not ended, and is found by and due as r, at a revision.
func (r *row) unclaimed(revision int64) []byte {
	b := slices.Clone(r.record[:r.head])
	binary.BigEndian.PutUint64(b[claimSize:], uint64(revision))
	b[claimSize+revisionSize] = endedByte(false)
	return b
}

func endedByte(ended bool) byte {
	if ended {
		return '1'
	}
	return '0'
}

// sortable returns a time, to the microsecond, as bytes in the order of time.
func sortable(t time.Time) string {
	return string(binary.BigEndian.AppendUint64(nil, uint64(t.UnixMicro())^1<<63))
}

func fromSortable(b string) time.Time {
	return time.UnixMicro(int64(binary.BigEndian.Uint64([]byte(b)) ^ 1<<63)).UTC()
}

// The letters of terms.
const (
	accountTerm = "a:"
	clientTerm  = "c:"
	kindTerm    = "k:"
)

// terms returns what a session is found by, each once. The first one is its
// subject.
func terms(s *store.Session) []string {
	list := make([]string, 0, 8)
	add := func(letter, name string) {
		if name != "" {
			list = append(list, letter+name)
		}
	}
	for _, account := range s.Accounts {
		add(accountTerm, account)
	}
	add(clientTerm, s.Client)
	for i := range s.Grants {
		add(clientTerm, s.Grants[i].Client)
	}
	add(kindTerm, string(s.Kind))
	slices.Sort(list)
	return append([]string{subjectTerm(s.Subject)}, slices.Compact(list)...)
}

func subjectTerm(subject store.Subject) string {
	b := binary.AppendUvarint([]byte("u:"), uint64(len(subject.Issuer)))
	return string(b) + subject.Issuer + subject.ID
}

// indexes returns the keys of the indexes that a session is in.
func indexes(bucket string, ended bool, terms []string) []string {
	keys := []string{indexKey(bucket, ended, "")}
	for _, term := range terms {
		keys = append(keys, indexKey(bucket, ended, term))
	}
	return keys
}

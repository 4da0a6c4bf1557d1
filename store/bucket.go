package store

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
)

// Bucket returns the bucket of a subject, two lower-case hexadecimal digits: 256
// buckets, over which subjects are spread evenly. The ID of a session begins
// with the bucket of its subject, so that an engine that keeps a bucket in one
// place, as a slot of a Redis cluster, finds it by the ID alone, and has all of
// a subject's sessions together. The function never changes: sessions are stored
// under it.
func Bucket(subject Subject) string {
	b := make([]byte, 0, 256)
	for _, part := range []string{"bucket", subject.Issuer, subject.ID} {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:1])
}

package store

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
)

// Bucket returns the bucket of a subject, two lower-case hexadecimal digits: subjects are spread
// evenly over 256 buckets. The ID of a session begins with the bucket of its subject. So an engine
// that keeps a bucket in one place, as in a slot of a Redis cluster, finds a session by its ID
// alone, and has all sessions of a subject together. The function never changes: sessions are
// stored
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

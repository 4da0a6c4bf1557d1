package seal

import (
	"crypto/sha256"
	"encoding/binary"
)

// Digest hashes its parts, so that no two lists of parts hash alike.
func Digest(parts ...string) [32]byte {
	b := make([]byte, 0, 256)
	for _, p := range parts {
		b = binary.AppendUvarint(b, uint64(len(p)))
		b = append(b, p...)
	}
	return sha256.Sum256(b)
}

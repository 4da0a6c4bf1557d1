package seal

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"
)

// A Key is one sealing key.
type Key struct {
	Created time.Time // to the second; see [KeyID]
	Secret  [32]byte
}

// KeyID names a key without giving it away: eight hexadecimal digits of its creation
// in Unix seconds, and four of a digest of the secret. Tokens carry it in the clear,
// so that a process that does not have a new key yet knows it for new.
func KeyID(created time.Time, secret [32]byte) string {
	sum := sha256.Sum256(append([]byte("curfew key id"), secret[:]...))
	return fmt.Sprintf("%08x%s", uint32(created.Unix()), hex.EncodeToString(sum[:2]))
}

// keyCreated returns the time of creation in a key ID.
func keyCreated(id string) (time.Time, bool) {
	if len(id) != 12 {
		return time.Time{}, false
	}
	sec, err := strconv.ParseUint(id[:8], 16, 32)
	if err != nil {
		return time.Time{}, false
	}
	return time.Unix(int64(sec), 0), true
}

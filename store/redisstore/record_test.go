package redisstore

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/sample"
)

// A record that is damaged is an error, or the session as it was: a cut-off one and
// one with a wrong length is the former, a wrong byte before the document is no other
// session.
func TestDamagedRecords(t *testing.T) {
	s := sample.Typical()
	r, err := newRow(&s, 7)
	require.NoError(t, err)
	whole := string(r.record)
	s.Revision = 7
	got, err := parseRecord(whole)
	require.NoError(t, err)
	require.Equal(t, s, got)
	h, err := parseHead(headOf(whole))
	require.NoError(t, err)
	require.Equal(t, r.terms, h.terms)

	for n := range len(whole) {
		_, err := parseRecord(whole[:n])
		require.Error(t, err, "%d bytes", n)
		if n < r.head {
			_, err = parseHead(headOf(whole[:n]))
			require.Error(t, err, "%d bytes", n)
		}
	}
	for i := range len(whole) {
		for bit := range 8 {
			b := []byte(whole)
			b[i] ^= 1 << bit
			got, err := parseRecord(string(b))
			if _, err := parseHead(headOf(string(b))); i < termsAt {
				require.NoError(t, err)
			}
			switch {
			case i < termsAt || i >= termsAt+4 && i < r.head:
				require.NoError(t, err)
				if i >= claimSize && i < claimSize+revisionSize {
					require.NotEqual(t, s.Revision, got.Revision)
					got.Revision = s.Revision
				}
				require.Equal(t, s, got)
			case i < r.head: // the length
				require.Error(t, err)
			}
		}
	}

	// What says that it is found by nothing, or by more than it has room for.
	for _, n := range []uint32{0, 1, 1 << 31, 1<<32 - 1} {
		b := []byte(whole)
		binary.BigEndian.PutUint32(b[termsAt:], n)
		_, err := parseHead(headOf(string(b)))
		require.Error(t, err, "%d", n)
		_, err = parseRecord(string(b))
		require.Error(t, err, "%d", n)
	}
}

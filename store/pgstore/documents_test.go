package pgstore_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/internal/engine/enginetest"
	"github.com/curfew-oidc/curfew/store"
)

// A version of a document that others have passed by meanwhile is a conflict, though
// they removed the versions before theirs.
func TestAVersionThatWasPassedBy(t *testing.T) {
	pool := openPool(t, enginetest.PostgresURL(t))
	s := newStore(t, pool)
	ctx := t.Context()
	for _, statement := range []string{
		`CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF NEW.body = 'slow'::bytea THEN PERFORM pg_sleep(1); END IF; RETURN NEW; END $$`,
		`CREATE TRIGGER slow BEFORE INSERT ON curfew_documents FOR EACH ROW EXECUTE FUNCTION slow()`,
	} {
		_, err := pool.Exec(ctx, statement)
		require.NoError(t, err)
	}
	put := func(version int64, by string) (int64, error) {
		return s.PutDocument(ctx, store.Document{Key: "walk", Version: version, Body: []byte(by), By: by, NoHistory: true})
	}
	for n := range int64(2) {
		_, err := put(n, "first")
		require.NoError(t, err)
	}
	type answer struct {
		version int64
		err     error
	}
	slow := make(chan answer)
	go func() {
		version, err := put(2, "slow")
		slow <- answer{version, err}
	}()
	time.Sleep(300 * time.Millisecond)
	_, err := put(2, "quick")
	if err == nil {
		_, err := put(3, "quick")
		require.NoError(t, err)
	}
	got := <-slow
	require.NotEqual(t, err == nil, got.err == nil, "one of them has written version 3: %v, %v", err, got.err)
	require.ErrorIs(t, errors.Join(err, got.err), store.ErrConflict)
	history, err := s.History(ctx, "walk", 0, 10)
	require.NoError(t, err)
	require.Len(t, history, 1)
}

package main

import (
	"context"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/examples/op/internal/kv"
	"github.com/curfew-oidc/curfew/internal/faultnet"
	"github.com/curfew-oidc/curfew/store"
)

var errInTime = errors.New("it has an end")

// A deadlines store answers errInTime to whoever will not wait for longer than
// storeTimeout.
type deadlines struct{ store.Documents }

func inTime(ctx context.Context) error {
	deadline, ok := ctx.Deadline()
	if ok && time.Until(deadline) <= storeTimeout {
		return errInTime
	}
	return errors.New("it may wait for ever")
}

func (deadlines) Get(ctx context.Context, _ string) (kv.Record, error) {
	return kv.Record{}, inTime(ctx)
}
func (deadlines) Put(ctx context.Context, _ kv.Record) error                 { return inTime(ctx) }
func (deadlines) Delete(ctx context.Context, _ string) error                 { return inTime(ctx) }
func (deadlines) DeleteGroup(ctx context.Context, _ string) error            { return inTime(ctx) }
func (deadlines) Sweep(ctx context.Context, _ time.Time, _ int) (int, error) { return 0, inTime(ctx) }
func (deadlines) Document(ctx context.Context, _ string) (store.Document, error) {
	return store.Document{}, inTime(ctx)
}

// A network that swallows what is sent holds nobody up for ever.
func TestStoreTimeout(t *testing.T) {
	ctx, s := t.Context(), timely{deadlines{}}
	_, err := s.Get(ctx, "")
	require.ErrorIs(t, err, errInTime)
	require.ErrorIs(t, s.Put(ctx, kv.Record{}), errInTime)
	require.ErrorIs(t, s.Delete(ctx, ""), errInTime)
	require.ErrorIs(t, s.DeleteGroup(ctx, ""), errInTime)
	_, err = s.Sweep(ctx, time.Time{}, 1)
	require.ErrorIs(t, err, errInTime)
	_, err = storedSettings{deadlines{}}.Account(ctx, "")
	require.ErrorIs(t, err, errInTime)

	for _, name := range []string{"postgres", "redis"} {
		at, err := parseStore(sharedStores[name](t))
		require.NoError(t, err)
		db, err := openDatabase(ctx, at)
		require.NoError(t, err)
		require.IsType(t, timely{}, db.records, at.where)
		require.NoError(t, db.close())
	}
}

// A server that answers late is waited for, as one that has just been started is.
func TestASlowStart(t *testing.T) {
	for _, name := range []string{"postgres", "redis"} {
		t.Run(name, func(t *testing.T) {
			at, err := url.Parse(sharedStores[name](t))
			require.NoError(t, err)
			network, err := faultnet.Listen(at.Host)
			require.NoError(t, err)
			defer network.Close()
			at.Host = network.Addr()
			through, err := parseStore(at.String())
			require.NoError(t, err)
			network.Set(faultnet.Fault{Hold: true})
			better := time.AfterFunc(dialTimeout+time.Second, func() { network.Set(faultnet.Fault{}) })
			defer better.Stop()
			db, err := openDatabase(t.Context(), through)
			require.NoError(t, err)
			require.NoError(t, db.close())
		})
	}
}

// The file tells who is signed in, and so does the log of writes beside it: both are
// for nobody else to read, in whatever folder.
func TestDatabaseIsForNobodyElse(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	at, err := parseStore("sqlite:" + filepath.Join(dir, "a+b &c=d?%41.db")) // as odd as paths may be
	require.NoError(t, err)
	for _, key := range []string{"made", "opened again"} {
		db, err := openDatabase(t.Context(), at)
		require.NoError(t, err)
		require.NoError(t, db.records.Put(t.Context(), kv.Record{Key: key, Value: []byte("v"), Expires: time.Now().Add(time.Hour)}))
		files, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, files, 3) // with the log and its index
		for _, file := range files {
			info, err := file.Info()
			require.NoError(t, err)
			require.Equal(t, fs.FileMode(0o600), info.Mode(), file.Name())
		}
		require.NoError(t, db.close())
	}
}

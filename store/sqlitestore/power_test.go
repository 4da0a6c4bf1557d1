package sqlitestore_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/memstore"
	"github.com/curfew-oidc/curfew/store/sqlitestore"
)

// A disk is a file system for SQLite that knows what would be left if the power
// went now. It passes everything on to the real one, locks and shared memory
// included, so that WAL works as in production with several connections, and
// keeps beside it what was synced of each file and which writes came after.
//
// What it assumes of a disk: a sync that returned means that the file's content
// and its name are there to stay. Writes after the last sync of their file may be
// there or not, each 512 bytes of them by themselves, and in any order.
// It assumes that what is removed is gone; SQLite removes its files only when the
// last connection closes, which is not part of these tests.
type disk struct {
	vfs.VFSFilename

	mu      sync.Mutex
	files   map[string]*diskFile // by the last element of the path
	syncs   int
	crash   func() // called before a sync takes effect
	full    bool
	refused int  // writes that failed because the disk was full
	broken  bool // syncs fail
}

type diskFile struct {
	synced  []byte // nil: it was never synced, its name may be lost
	pending []diskWrite
}

type diskWrite struct {
	at   int64
	data []byte // nil: the file was cut off at at
}

var disks struct {
	sync.Mutex
	n int
}

// newDisk returns a disk and the name that it is registered by.
func newDisk() (*disk, string) {
	disks.Lock()
	disks.n++
	name := fmt.Sprintf("disk%d", disks.n)
	disks.Unlock()
	d := &disk{VFSFilename: vfs.Find("").(vfs.VFSFilename), files: map[string]*diskFile{}}
	vfs.Register(name, d)
	return d, name
}

func (d *disk) OpenFilename(name *vfs.Filename, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	f, flags, err := d.VFSFilename.OpenFilename(name, flags)
	if err != nil || name == nil {
		return f, flags, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	base := filepath.Base(name.String())
	if d.files[base] == nil {
		d.files[base] = &diskFile{}
	}
	return &openFile{File: f, disk: d, on: d.files[base]}, flags, nil
}

func (d *disk) Delete(name string, syncDir bool) error {
	d.mu.Lock()
	delete(d.files, filepath.Base(name))
	d.mu.Unlock()
	return d.VFSFilename.Delete(name, syncDir)
}

// left returns what is left of the files if the power goes now: what was synced
// and, with a source of chance, some of what was written since.
func (d *disk) left(chance *rand.Rand) map[string][]byte {
	files := map[string][]byte{}
	for name, f := range d.files {
		content := slices.Clone(f.synced)
		if chance != nil {
			for _, w := range f.pending {
				content = w.apply(content, func() bool { return chance.IntN(2) == 0 })
			}
		}
		if content != nil {
			files[name] = content
		}
	}
	return files
}

const sector = 512

// apply applies those sectors of a write that keep says.
func (w diskWrite) apply(content []byte, keep func() bool) []byte {
	if w.data == nil {
		if keep() && int64(len(content)) > w.at {
			content = content[:w.at]
		}
		return content
	}
	for at := w.at; at < w.at+int64(len(w.data)); {
		end := min((at/sector+1)*sector, w.at+int64(len(w.data)))
		if keep() {
			if grow := end - int64(len(content)); grow > 0 {
				content = append(content, make([]byte, grow)...)
			}
			copy(content[at:end], w.data[at-w.at:end-w.at])
		}
		at = end
	}
	return content
}

// An openFile is a file on a disk.
type openFile struct {
	vfs.File
	disk *disk
	on   *diskFile
}

func (f *openFile) SharedMemory() vfs.SharedMemory {
	if inner, ok := f.File.(vfs.FileSharedMemory); ok {
		return inner.SharedMemory()
	}
	return nil
}

func (f *openFile) LockState() vfs.LockLevel { return f.File.(vfs.FileLockState).LockState() }

func (f *openFile) WriteAt(p []byte, at int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.disk.full {
		if size, err := f.File.Size(); err != nil || at+int64(len(p)) > size {
			f.disk.refused++
			return 0, sqlite3.FULL
		}
	}
	f.on.pending = append(f.on.pending, diskWrite{at, bytes.Clone(p)})
	return f.File.WriteAt(p, at)
}

func (f *openFile) Truncate(size int64) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.on.pending = append(f.on.pending, diskWrite{at: size})
	return f.File.Truncate(size)
}

func (f *openFile) Sync(flags vfs.SyncFlag) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.disk.syncs++
	if f.disk.crash != nil {
		f.disk.crash()
	}
	if f.disk.broken {
		return sqlite3.IOERR_FSYNC
	}
	if err := f.File.Sync(flags); err != nil {
		return err
	}
	for _, w := range f.on.pending {
		f.on.synced = w.apply(f.on.synced, func() bool { return true })
	}
	if f.on.synced == nil {
		f.on.synced = []byte{}
	}
	f.on.pending = nil
	return nil
}

// A crash is what was left when the power went.
type crash struct {
	acknowledged int // operations that had returned
	files        map[string][]byte
	syncs        int
	kind         string
}

// powerWorkload runs operations on a store on a disk of its own and returns a
// crash for each moment at which the power may go that makes a difference:
// before each sync takes effect, and after each operation was acknowledged. Each
// moment gives one crash that loses everything that was not synced, and two that
// lose some of it by chance. dumps[n] is what must be in the store after n
// operations.
func powerWorkload(t *testing.T, pragma string) (crashes []crash, dumps []string) {
	t.Helper()
	ctx := t.Context()
	d, name := newDisk()
	chance := rand.New(rand.NewPCG(1, 2))
	acknowledged := 0
	moment := func() {
		for i, c := range []*rand.Rand{nil, chance, chance} {
			next := crash{acknowledged, d.left(c), d.syncs, []string{"synced only", "some more", "some more"}[i]}
			same := func(c crash) bool {
				return c.acknowledged == next.acknowledged && maps.EqualFunc(c.files, next.files, bytes.Equal)
			}
			if !slices.ContainsFunc(crashes[max(0, len(crashes)-6):], same) {
				crashes = append(crashes, next)
			}
		}
	}
	d.crash = moment

	// A small limit makes checkpoints, in which the WAL is copied into the
	// database and begun again, part of the workload.
	path := filepath.Join(t.TempDir(), "s.db")
	open := func() *sql.DB {
		return openDB(t, path, "vfs="+name+"&_pragma=busy_timeout(1000)&_pragma=wal_autocheckpoint(12)")
	}
	model := memstore.New()
	// Two handles, so that the work is spread over connections.
	var stores [2]*sqlitestore.Store
	for i := range stores {
		stores[i] = newStore(t, open())
		if pragma != "" {
			stores[i].SetDurability(pragma)
		}
	}
	dumps = append(dumps, dump(t, model))
	for i, op := range powerOperations() {
		require.NoError(t, op(ctx, stores[i%2]))
		d.mu.Lock()
		acknowledged++
		moment()
		d.mu.Unlock()
		require.NoError(t, op(ctx, model))
		dumps = append(dumps, dump(t, model))
	}
	require.Equal(t, dumps[len(dumps)-1], dump(t, stores[0]))
	d.mu.Lock()
	d.crash = nil // closing is not part of it
	d.mu.Unlock()
	return crashes, dumps
}

// powerOperations are one write each.
func powerOperations() (ops []func(context.Context, store.Store) error) {
	add := func(op func(context.Context, store.Store) error) { ops = append(ops, op) }
	for i := range 18 {
		one := session(fmt.Sprintf("%02d", i), fmt.Sprintf("user-%d", i%3))
		one.Due = one.Due.Add(time.Duration(i) * time.Second)
		change := func(f func(*store.Session)) func(context.Context, store.Store) error {
			return func(ctx context.Context, s store.Store) error {
				now, err := s.Get(ctx, one.ID)
				if err == nil {
					f(&now)
					_, err = s.Update(ctx, now)
				}
				return err
			}
		}
		if i%2 == 0 {
			add(func(ctx context.Context, s store.Store) error { return s.Create(ctx, one, 100) })
		} else {
			add(func(ctx context.Context, s store.Store) error {
				return s.Admit(ctx, one.Subject, func(held []store.Session, _ store.Fence) ([]store.Session, error) {
					out := []store.Session{one}
					for _, h := range held[:max(0, len(held)-2)] {
						h.End = &store.End{At: one.Started, Reason: policy.ReasonConcurrency, By: one.ID}
						out = append(out, h)
					}
					return out, nil
				})
			})
		}
		for n := range 3 {
			add(change(func(s *store.Session) {
				s.Grants[0].Generation++
				s.Grants[0].Repeat = bytes.Repeat([]byte{byte(n)}, 100*i) // of all sizes
			}))
		}
		if i%3 == 0 {
			add(change(func(s *store.Session) { s.End = &store.End{At: s.Started, Reason: policy.ReasonLogout} }))
		}
		if i%6 == 3 {
			add(func(ctx context.Context, s store.Store) error {
				now, err := s.Get(ctx, one.ID)
				if err != nil {
					return err
				}
				return s.Delete(ctx, one.ID, now.Revision)
			})
		}
		if i%4 == 0 {
			add(func(ctx context.Context, s store.Store) error {
				_, err := s.PutDocument(ctx, store.Document{Key: "settings", Version: int64(i / 4), Body: []byte(one.ID)})
				return err
			})
		}
	}
	return ops
}

// dump returns all that is in a store.
func dump(t *testing.T, s store.Store) string {
	t.Helper()
	list, _, err := s.List(t.Context(), store.Filter{}, "", 10000)
	require.NoError(t, err)
	out := ""
	for _, one := range list {
		b, err := one.MarshalJSON()
		require.NoError(t, err)
		out += fmt.Sprintf("%d %s\n", one.Revision, b)
	}
	history, err := s.History(t.Context(), "settings", 0, 10000)
	require.NoError(t, err)
	for _, d := range history {
		out += fmt.Sprintf("%d %s\n", d.Version, d.Body)
	}
	return out
}

// survives brings the power back and returns whether all that was acknowledged
// is there. The operation that was under way may have taken effect or not.
func (c crash) survives(t *testing.T, dir string, dumps []string) error {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(c.files)) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), c.files[name], 0o600))
	}
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(dir, "s.db")+"?"+params)
	require.NoError(t, err)
	defer db.Close()
	s, err := sqlitestore.New(t.Context(), db)
	if err != nil {
		return err
	}
	var result string
	if err := db.QueryRow(`PRAGMA integrity_check`).Scan(&result); err != nil || result != "ok" {
		return fmt.Errorf("integrity: %q, %w", result, err)
	}
	if n := misfits(t, db); n > 0 {
		return fmt.Errorf("%d rows do not fit together", n)
	}
	got := dump(t, s)
	if got == dumps[c.acknowledged] || c.acknowledged+1 < len(dumps) && got == dumps[c.acknowledged+1] {
		return nil
	}
	if n := slices.Index(dumps, got); n >= 0 {
		return fmt.Errorf("%d operations are there", n)
	}
	return fmt.Errorf("what is there was never in the store")
}

func countLost(t *testing.T, crashes []crash, dumps []string) (lost int, first error) {
	t.Helper()
	dir := t.TempDir()
	for i, c := range crashes {
		at := filepath.Join(dir, fmt.Sprint(i))
		require.NoError(t, os.Mkdir(at, 0o700))
		if err := c.survives(t, at, dumps); err != nil {
			lost++
			if first == nil {
				first = fmt.Errorf("power lost (%s) after %d syncs and %d acknowledged operations: %w", c.kind, c.syncs, c.acknowledged, err)
			}
		}
		require.NoError(t, os.RemoveAll(at))
	}
	return lost, first
}

// Whenever the power goes, all that was acknowledged is there when it comes back.
func TestAcknowledgedSurvivesPowerLoss(t *testing.T) {
	t.Parallel()
	crashes, dumps := powerWorkload(t, "")
	last := crashes[len(crashes)-1]
	require.Greater(t, last.syncs, len(dumps), "every operation is synced, and checkpoints are part of it")
	lost, err := countLost(t, crashes, dumps)
	require.NoError(t, err, "%d of %d crashes lost something", lost, len(crashes))
	t.Logf("%d operations, %d syncs, %d crashes", len(dumps)-1, last.syncs, len(crashes))
}

// With less than synchronous=FULL something is lost, and the test above notices.
func TestPowerLossIsNoticed(t *testing.T) {
	for _, pragma := range []string{`PRAGMA synchronous = OFF`, `PRAGMA synchronous = NORMAL`} {
		crashes, dumps := powerWorkload(t, pragma)
		// Some are enough to see it.
		var some []crash
		for i := 0; i < len(crashes); i += 12 {
			some = append(some, crashes[i])
		}
		lost, err := countLost(t, some, dumps)
		require.Error(t, err, pragma)
		require.Greater(t, lost, len(some)/3, pragma)
		t.Logf("%s: %d of %d crashes lost something, the first: %v", pragma, lost, len(some), err)
	}
}

// However many connections the pool has opened, and whatever the data source name
// says, nothing that was acknowledged waits for a sync.
func TestEveryConnectionIsDurable(t *testing.T) {
	d, name := newDisk()
	db := openDB(t, filepath.Join(t.TempDir(), "s.db"), "vfs="+name+"&_pragma=busy_timeout(1000)&_pragma=synchronous(off)")
	s := newStore(t, db)
	for i := range 7 {
		conn, err := db.Conn(t.Context()) // in use: the next write gets another one
		require.NoError(t, err)
		defer conn.Close()
		_, err = conn.ExecContext(t.Context(), `PRAGMA synchronous = OFF`)
		require.NoError(t, err)
		durable := func(what string) {
			d.mu.Lock()
			defer d.mu.Unlock()
			require.NotEmpty(t, d.files["s.db-wal"].synced)
			require.Zero(t, len(d.files["s.db-wal"].pending), "%s, connection %d", what, i)
		}
		one := session(fmt.Sprint(i), "alice")
		require.NoError(t, s.Create(t.Context(), one, 100))
		durable("create")
		for one.Revision = 1; one.Revision < 4; {
			one.LastActivity = one.LastActivity.Add(time.Second)
			one.Revision, err = s.Update(t.Context(), one)
			require.NoError(t, err)
			durable("update")
			makeAllForgetful(t, db, 8-1-i, []string{"OFF", "NORMAL"}[one.Revision%2])
		}
	}
}

// A table of the pragma's name does not make a connection that does not wait for the
// disk look like one that does.
func TestNoTableIsTakenForThePragma(t *testing.T) {
	d, name := newDisk()
	db := openDB(t, filepath.Join(t.TempDir(), "s.db"), "vfs="+name+"&_pragma=busy_timeout(1000)")
	db.SetMaxOpenConns(1)
	s := newStore(t, db)
	one := session("a", "alice")
	require.NoError(t, s.Create(t.Context(), one, 100))
	one.Revision = 1
	for _, table := range []string{"TEMP TABLE", "TABLE"} {
		_, err := db.Exec(`PRAGMA synchronous = OFF; CREATE ` + table + ` pragma_synchronous (synchronous); INSERT INTO pragma_synchronous VALUES (2); PRAGMA wal_checkpoint(TRUNCATE)`)
		require.NoError(t, err)
		_, err = s.Update(t.Context(), one)
		require.ErrorContains(t, err, "pragma_synchronous")
		got, err := s.Get(t.Context(), one.ID)
		require.NoError(t, err)
		require.EqualValues(t, 1, got.Revision)
		_, err = db.Exec(`DROP TABLE pragma_synchronous`)
		require.NoError(t, err)
	}
	one.Revision, _ = s.Update(t.Context(), one)
	require.EqualValues(t, 2, one.Revision)
	d.mu.Lock()
	defer d.mu.Unlock()
	require.Zero(t, len(d.files["s.db-wal"].pending))
}

// makeAllForgetful sets a level of synchronous on as many connections as the pool has
// that are not in use.
func makeAllForgetful(t *testing.T, db *sql.DB, n int, level string) {
	for range n {
		conn, err := db.Conn(t.Context())
		require.NoError(t, err)
		defer conn.Close()
		_, err = conn.ExecContext(t.Context(), `PRAGMA synchronous = `+level)
		require.NoError(t, err)
	}
}

// When the disk is full writes fail and say so, reads go on, and so do writes
// when there is room again.
func TestDiskFull(t *testing.T) {
	d, name := newDisk()
	db := openDB(t, filepath.Join(t.TempDir(), "s.db"), "vfs="+name+"&_pragma=busy_timeout(1000)")
	diskFull(t, newStore(t, db), db, func(full bool) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.full = full
	})
	require.Positive(t, d.refused)
}

// An update whose sync failed is not acknowledged, nor taken for a race that was
// lost; what is acknowledged afterwards is there to stay.
func TestSyncFails(t *testing.T) {
	ctx := t.Context()
	d, name := newDisk()
	s := newStore(t, openDB(t, filepath.Join(t.TempDir(), "s.db"), "vfs="+name+"&_pragma=busy_timeout(1000)"))
	one := session("a", "alice")
	require.NoError(t, s.Create(ctx, one, 100))
	broken := func(is bool) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.broken = is
	}
	for range 5 {
		now, err := s.Get(ctx, one.ID)
		require.NoError(t, err)
		broken(true)
		_, err = s.Update(ctx, now)
		require.ErrorContains(t, err, "disk I/O error")
		for _, other := range []error{store.ErrConflict, store.ErrNotFound, context.DeadlineExceeded} {
			require.NotErrorIs(t, err, other)
		}
		broken(false)
		now, err = s.Get(ctx, one.ID)
		require.NoError(t, err)
		_, err = s.Update(ctx, now)
		require.NoError(t, err)
		d.mu.Lock()
		require.Zero(t, len(d.files["s.db-wal"].pending))
		d.mu.Unlock()
	}
}

func TestDatabaseFull(t *testing.T) {
	db := openDB(t, filepath.Join(t.TempDir(), "s.db"), params)
	db.SetMaxOpenConns(1) // max_page_count belongs to the connection
	diskFull(t, newStore(t, db), db, func(full bool) {
		pages := 1 << 30
		if full {
			require.NoError(t, db.QueryRow(`PRAGMA page_count`).Scan(&pages))
		}
		_, err := db.Exec(fmt.Sprintf(`PRAGMA max_page_count = %d`, pages))
		require.NoError(t, err)
	})
}

func diskFull(t *testing.T, s *sqlitestore.Store, db *sql.DB, setFull func(bool)) {
	ctx := t.Context()
	for i := range 20 {
		require.NoError(t, s.Create(ctx, session(fmt.Sprint("before", i), "alice"), 1000))
	}
	_, err := s.PutDocument(ctx, store.Document{Key: "settings", Body: []byte("{}")})
	require.NoError(t, err)
	var acknowledged []string
	for round := range 2 {
		setFull(true)
		var failed error
		for i := 0; failed == nil; i++ {
			require.Less(t, i, 10000, "the disk does not fill up")
			id := fmt.Sprintf("full-%d-%d", round, i)
			if failed = s.Create(ctx, session(id, "bob"), 1<<30); failed == nil {
				acknowledged = append(acknowledged, session(id, "bob").ID)
			}
		}
		require.ErrorContains(t, failed, "full")
		for _, other := range []error{store.ErrExists, store.ErrFull, store.ErrConflict, store.ErrNotFound, context.DeadlineExceeded} {
			require.NotErrorIs(t, failed, other)
		}
		big := session("big", "carol")
		big.UserAgent = string(bytes.Repeat([]byte("x"), 100_000))
		err := s.Admit(ctx, big.Subject, func([]store.Session, store.Fence) ([]store.Session, error) { return []store.Session{big}, nil })
		require.ErrorContains(t, err, "full")
		require.NotErrorIs(t, err, store.ErrConflict)

		one, err := s.Get(ctx, session("before3", "alice").ID)
		require.NoError(t, err)
		grown := one.Clone()
		grown.UserAgent = big.UserAgent
		_, err = s.Update(ctx, grown)
		require.ErrorContains(t, err, "full")
		for _, other := range []error{store.ErrConflict, store.ErrNotFound, context.DeadlineExceeded} {
			require.NotErrorIs(t, err, other)
		}
		page, _, err := s.List(ctx, store.Filter{Account: "default"}, "", 10)
		require.NoError(t, err)
		require.Len(t, page, 10)
		_, err = s.Document(ctx, "settings")
		require.NoError(t, err)

		setFull(false)
		require.NoError(t, s.Create(ctx, session(fmt.Sprint("after", round), "bob"), 1<<30))
		_, err = s.Update(ctx, one)
		require.NoError(t, err)
		_, err = s.Get(ctx, big.ID)
		require.ErrorIs(t, err, store.ErrNotFound)
		for _, id := range acknowledged {
			_, err := s.Get(ctx, id)
			require.NoError(t, err)
		}
		requireSound(t, db)
	}
}

package storetest

import (
	"bytes"
	"fmt"
	"sync"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/store"
)

// put writes a version of a document.
func (f *fixture) put(d store.Document) store.Document {
	f.Helper()
	version, err := f.s.PutDocument(f.ctx, d)
	require.NoError(f, err)
	d.Version = version
	return d
}

func (f *fixture) history(key string, before int64, limit int) []store.Document {
	f.Helper()
	list, err := f.s.History(f.ctx, key, before, limit)
	require.NoError(f, err)
	return list
}

func version(d store.Document, n int) store.Document {
	d.Version = int64(n)
	d.Body = fmt.Appendf(nil, `{"n":%d}`, n)
	d.At = at.Add(time.Duration(n) * time.Microsecond)
	d.By, d.Message = fmt.Sprintf("admin %d", n), fmt.Sprintf("change %d", n)
	return d
}

var documentTests = []contractTest{
	{"NotFound", func(f *fixture) {
		for _, key := range []string{"", "none", "\xff"} {
			_, err := f.s.Document(f.ctx, key)
			require.ErrorIs(f, err, store.ErrNotFound)
			require.Empty(f, f.history(key, 0, 10))
		}
	}},
	{"CompareAndSwap", func(f *fixture) {
		d := version(store.Document{Key: "k"}, 1)
		for _, wrong := range []int64{1, 2, -1} {
			d.Version = wrong
			_, err := f.s.PutDocument(f.ctx, d)
			require.ErrorIs(f, err, store.ErrConflict)
		}
		d.Version = 0
		d = f.put(d)
		require.Equal(f, int64(1), d.Version)
		got, err := f.s.Document(f.ctx, "k")
		require.NoError(f, err)
		require.Equal(f, d, got)

		second := version(d, 2)
		for _, wrong := range []int64{0, 2, -1} {
			second.Version = wrong
			_, err := f.s.PutDocument(f.ctx, second)
			require.ErrorIs(f, err, store.ErrConflict)
		}
		require.Equal(f, []store.Document{d}, f.history("k", 0, 10))
		second.Version = 1
		second = f.put(second)
		require.Equal(f, int64(2), second.Version)
		require.Equal(f, []store.Document{second, d}, f.history("k", 0, 10))
	}},
	{"History", func(f *fixture) {
		var want []store.Document // newest first
		for n := 1; n <= 9; n++ {
			d := version(store.Document{Key: "k"}, n)
			d.Version = int64(n - 1)
			want = append([]store.Document{f.put(d)}, want...)
		}
		f.put(version(store.Document{Key: "other"}, 0))
		require.Equal(f, want, f.history("k", 0, 100))
		require.Equal(f, want, f.history("k", 0, 9))
		require.Equal(f, want, f.history("k", 1000, 100))
		require.Equal(f, want[:1], f.history("k", 0, 1))
		require.Equal(f, want[1:], f.history("k", 9, 100))
		require.Equal(f, want[6:8], f.history("k", 4, 2))
		require.Empty(f, f.history("k", 1, 10))
		for before := int64(0); ; { // by pages
			page := f.history("k", before, 4)
			require.Equal(f, want[:len(page)], page)
			if want = want[len(page):]; len(want) == 0 {
				break
			}
			before = page[len(page)-1].Version
		}
		for _, limit := range []int{0, -1} {
			_, err := f.s.History(f.ctx, "k", 0, limit)
			f.refused(err)
		}
	}},
	{"NoHistory", func(f *fixture) {
		next := func(of store.Document, n int, alone bool) store.Document {
			d := version(of, n)
			d.Version, d.NoHistory = int64(n-1), alone
			got := f.put(d)
			got.NoHistory = false
			return got
		}
		check := func(want ...store.Document) { // newest first
			f.Helper()
			got, err := f.s.Document(f.ctx, "k")
			require.NoError(f, err)
			require.Equal(f, want[0], got)
			require.Equal(f, want, f.history("k", 0, 100))
			require.Equal(f, want[:1], f.history("k", 0, 1))
			require.Equal(f, want[1:], append([]store.Document{}, f.history("k", want[0].Version, 100)...))
		}
		f.put(store.Document{Key: "other"})
		f.put(store.Document{Key: "other", Version: 1})
		k := store.Document{Key: "k"}
		for n := 1; n <= 3; n++ {
			check(next(k, n, true))
		}
		for _, wrong := range []int64{0, 1, 2, 4} {
			d := version(k, 9)
			d.Version, d.NoHistory = wrong, true
			_, err := f.s.PutDocument(f.ctx, d)
			require.ErrorIs(f, err, store.ErrConflict)
		}
		third := version(k, 3)
		check(third)
		fourth := next(k, 4, false) // from now on with its history
		check(fourth, third)
		fifth := next(k, 5, false)
		check(fifth, fourth, third)
		check(next(k, 6, true))
		require.Len(f, f.history("other", 0, 10), 2, "another one keeps its own")
	}},
	{"Drop", func(f *fixture) {
		require.NoError(f, f.s.DropDocument(f.ctx, "k"), "there is none")
		kept := f.put(store.Document{Key: "kept", Body: []byte("x")})
		for _, alone := range []bool{false, true} {
			for n := range 3 {
				f.put(store.Document{Key: "k", Version: int64(n), Body: []byte("x"), NoHistory: alone})
			}
			require.NoError(f, f.s.DropDocument(f.ctx, "k"))
			_, err := f.s.Document(f.ctx, "k")
			require.ErrorIs(f, err, store.ErrNotFound)
			require.Empty(f, f.history("k", 0, 10))
		}
		_, err := f.s.PutDocument(f.ctx, store.Document{Key: "k", Version: 3})
		require.ErrorIs(f, err, store.ErrConflict)
		require.Equal(f, int64(1), f.put(store.Document{Key: "k"}).Version, "it begins anew")
		require.Equal(f, []store.Document{kept}, f.history("kept", 0, 10))
	}},
	{"Kept", func(f *fixture) {
		any := make([]byte, 256)
		for i := range any {
			any[i] = byte(i)
		}
		d := f.put(store.Document{Key: "k", Body: any, At: at.In(time.FixedZone("", 3600)), By: "é\x00", Message: "'; --"})
		d.At = at
		body := bytes.Clone(any)
		clear(any) // the argument is the caller's
		d.Body = body
		for range 2 {
			got, err := f.s.Document(f.ctx, "k")
			require.NoError(f, err)
			require.Equal(f, d, got)
			clear(got.Body) // and so is what is returned
			list := f.history("k", 0, 1)
			require.Equal(f, []store.Document{d}, list)
			clear(list[0].Body)
		}
		bare := f.put(store.Document{Key: "bare"})
		got, err := f.s.Document(f.ctx, "bare")
		require.NoError(f, err)
		require.Empty(f, got.Body)
		got.Body = nil
		require.Equal(f, bare, got)
	}},
	{"Keys", func(f *fixture) {
		for i, name := range names {
			f.put(store.Document{Key: name, Message: fmt.Sprint(i)})
		}
		for i, name := range names {
			got, err := f.s.Document(f.ctx, name)
			require.NoError(f, err)
			require.Equal(f, store.Document{Key: name, Version: 1, Message: fmt.Sprint(i), Body: got.Body}, got)
			require.Len(f, f.history(name, 0, 10), 1)
		}
	}},
	{"Refused", func(f *fixture) {
		for _, d := range []store.Document{{}, {Key: "a\xff"}, {Key: "k", By: "\xff"}, {Key: "k", Message: "\xff"}, {Key: "k", At: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}} {
			_, err := f.s.PutDocument(f.ctx, d)
			f.refused(err)
		}
		require.Empty(f, f.history("k", 0, 10))
	}},
	{"Race", func(f *fixture) {
		const writers, each = 8, 10
		var wg sync.WaitGroup
		for range writers {
			wg.Go(func() {
				for done := 0; done < each; {
					d, err := f.s.Document(f.ctx, "k")
					if err != nil && !assert.ErrorIs(f, err, store.ErrNotFound) {
						return
					}
					n := int(d.Version) + 1
					next := version(store.Document{Key: "k"}, n)
					next.Version = d.Version
					switch got, err := f.s.PutDocument(f.ctx, next); {
					case err == nil:
						assert.EqualValues(f, n, got)
						done++
					case !assert.ErrorIs(f, err, store.ErrConflict):
						return
					}
				}
			})
		}
		wg.Wait()
		list := f.history("k", 0, 1000)
		require.Len(f, list, writers*each, "none is lost and none is written twice")
		for i, d := range list {
			require.Equal(f, version(store.Document{Key: "k"}, writers*each-i), d)
		}
	}},
}

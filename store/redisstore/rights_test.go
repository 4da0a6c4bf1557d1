package redisstore_test

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/redisstore"
)

// A user with the rights that the package's documentation names can do everything,
// and without any of them not.
func TestRights(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	list := regexp.MustCompile(`(?s)The Redis user needs the commands (.*?), on keys that begin with "curfew:"`).FindSubmatch(doc)
	require.NotNil(t, list)
	words := regexp.MustCompile(`[A-Z]+`).FindAllString(string(list[1]), -1)
	require.Greater(t, len(words), 10)
	client := single(t)
	o := *client.Options()
	o.Username, o.Password = "curfew", "rights"
	user := opened(t, redis.NewClient(&o))
	allow := func(words []string) {
		args := []any{"acl", "setuser", "curfew", "reset", "on", ">rights", "~curfew:*"}
		for _, word := range words {
			args = append(args, "+"+strings.ToLower(word))
		}
		require.NoError(t, client.Do(t.Context(), args...).Err())
	}
	t.Cleanup(func() {
		require.NoError(t, client.Do(context.WithoutCancel(t.Context()), "acl", "deluser", "curfew").Err())
	})
	everything := func() error {
		require.NoError(t, client.FlushAll(t.Context()).Err())
		require.NoError(t, client.ScriptFlush(t.Context()).Err())
		s := newStore(t, client)
		for _, name := range []string{"a", "b", "c"} {
			require.NoError(t, s.Create(t.Context(), session(name, "alice"), 100))
		}
		fill(t, s, 0, 60)
		require.NoError(t, client.ScriptFlush(t.Context()).Err())
		return useEverything(t, user)
	}
	allow(words)
	require.NoError(t, everything())
	for i, word := range words {
		allow(append(append([]string(nil), words[:i]...), words[i+1:]...))
		require.Error(t, everything(), "%s is not needed", word)
	}
}

func useEverything(t *testing.T, client *redis.Client) error {
	s, err := redisstore.New(t.Context(), client)
	if err != nil {
		return err
	}
	for n := range 2 {
		for _, one := range costs {
			if err := one.call(t.Context(), s, n); err != nil {
				return fmt.Errorf("%s: %w", one.name, err)
			}
		}
	}
	one, err := s.Get(t.Context(), session("b", "alice").ID)
	if err == nil {
		err = s.Delete(t.Context(), one.ID, one.Revision)
	}
	if err == nil {
		_, err = s.PutDocument(t.Context(), store.Document{Key: "k"})
	}
	if err == nil {
		_, err = s.Document(t.Context(), "k")
	}
	if err == nil {
		_, err = s.History(t.Context(), "k", 0, 10)
	}
	var f store.Fence
	if err == nil {
		f, err = s.PutFence(t.Context(), store.Fence{Subject: one.Subject, At: time.Unix(1, 0)})
	}
	if err == nil {
		err = s.MoveFence(t.Context(), f, time.Time{})
	}
	if err == nil {
		err = s.DropCounts(t.Context(), "1", time.Unix(1<<31, 0))
	}
	return err
}

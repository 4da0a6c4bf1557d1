package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/curfew-oidc/curfew/internal/engine"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/redisstore"
)

func newRedisRig(ctx context.Context) (*rig, error) {
	server, err := engine.NewRedis()
	if err != nil {
		return nil, err
	}
	options, err := redis.ParseURL(server.URL())
	if err != nil {
		return nil, errors.Join(err, server.Close())
	}
	options.PoolSize, options.ContextTimeoutEnabled = connections, true
	client := redis.NewClient(options)
	r := &rig{close: func() error { return errors.Join(client.Close(), server.Close()) }}
	fail := func(err error) (*rig, error) { return nil, errors.Join(err, r.close()) }
	s, err := redisstore.New(ctx, client)
	if err != nil {
		return fail(err)
	}
	if r.version, err = info(ctx, client, "redis_version"); err != nil {
		return fail(err)
	}
	id, err := info(ctx, client, "process_id")
	if err != nil {
		return fail(err)
	}
	pid, err := strconv.Atoi(id)
	if err != nil {
		return fail(err)
	}
	r.store, r.bare = s, bareRedis{client}
	r.processes = func() ([]int, error) { return []int{pid}, nil }
	r.size = func(ctx context.Context) (int64, error) {
		used, err := info(ctx, client, "used_memory")
		if err != nil {
			return 0, err
		}
		return strconv.ParseInt(used, 10, 64)
	}
	r.load = func(ctx context.Context, sessions iter.Seq[store.Session]) error {
		// Durable at the end is enough, and nothing must be left to do then.
		for _, set := range [][2]string{{"auto-aof-rewrite-percentage", "0"}, {"appendfsync", "no"}} {
			if err := client.ConfigSet(ctx, set[0], set[1]).Err(); err != nil {
				return err
			}
		}
		return errors.Join(loadByCreate(s, connections)(ctx, sessions), client.ConfigSet(ctx, "appendfsync", "always").Err())
	}
	return r, nil
}

// info returns a field of what a server says about itself.
func info(ctx context.Context, client *redis.Client, field string) (string, error) {
	text, err := client.Info(ctx).Result()
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), field+":"); ok {
			return value, nil
		}
	}
	return "", fmt.Errorf("INFO has no %s", field)
}

// A bareRedis reads and writes strings.
type bareRedis struct{ client *redis.Client }

func (b bareRedis) put(ctx context.Context, id string, document []byte) error {
	return b.update(ctx, id, document)
}

func (b bareRedis) read(ctx context.Context, id string) ([]byte, error) {
	return b.client.Get(ctx, "bare:"+id).Bytes()
}

func (b bareRedis) update(ctx context.Context, id string, document []byte) error {
	return b.client.Set(ctx, "bare:"+id, document, 0).Err()
}

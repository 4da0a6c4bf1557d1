package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Redis is a private Redis server.
type Redis struct {
	server   server
	port     int
	password string
}

// NewRedis starts an empty server. A setting is "name=value", with a name from
// redis.conf; what they do not say is as durable as Redis gets (appendonly yes,
// appendfsync always), or else its default.
func NewRedis(settings ...string) (*Redis, error) {
	r, err := newRedis(newPassword(), settings...)
	if err != nil {
		return nil, fmt.Errorf("start Redis: %w", err)
	}
	return r, nil
}

// newRedis starts a server with a password. Those of one group have the same.
func newRedis(password string, settings ...string) (*Redis, error) {
	r := &Redis{password: password}
	start := func() error {
		conf := []string{
			"appendonly=yes", "appendfsync=always", "save=", "dir=" + r.server.dir,
			"requirepass=" + r.password, "masterauth=" + r.password, "repl-diskless-sync-delay=0",
		}
		return r.server.configure(r.port, append(conf, settings...))
	}
	return r, r.create(start)
}

// NewReplica starts an empty server with the same password, and waits until it has
// what r has and follows it. See [NewRedis] for the settings.
func (r *Redis) NewReplica(settings ...string) (*Redis, error) {
	replica, err := newRedis(r.password, append([]string{fmt.Sprintf("replicaof=127.0.0.1 %d", r.port)}, settings...)...)
	if err != nil {
		return nil, fmt.Errorf("start a replica of Redis: %w", err)
	}
	if err := replica.await("the replica follows", "master_link_status:up", "INFO", "replication"); err != nil {
		return nil, errors.Join(fmt.Errorf("start a replica of Redis: %w", err), replica.Close())
	}
	return replica, nil
}

// newSentinel starts a sentinel, which needs no password.
func newSentinel(primary *Redis) (*Redis, error) {
	r := &Redis{}
	start := func() error {
		// The order counts.
		return r.server.configure(r.port, []string{
			fmt.Sprintf("sentinel monitor=%s 127.0.0.1 %d 2", sentinelName, primary.port),
			"sentinel auth-pass=" + sentinelName + " " + primary.password,
			"sentinel down-after-milliseconds=" + sentinelName + " 1000",
			"sentinel failover-timeout=" + sentinelName + " 5000",
			"dir=" + r.server.dir,
		}, "--sentinel")
	}
	return r, r.create(start)
}

// configure writes the server's configuration file and starts it.
func (s *server) configure(port int, settings []string, flags ...string) error {
	path := filepath.Join(s.dir, "redis.conf")
	var conf strings.Builder
	fmt.Fprintf(&conf, "port %d\nbind 127.0.0.1\ndaemonize no\n", port)
	for _, setting := range settings {
		name, value, _ := strings.Cut(setting, "=")
		if value == "" {
			value = `""`
		}
		fmt.Fprintf(&conf, "%s %s\n", name, value)
	}
	// The file has the password, and a sentinel writes into it.
	if err := os.WriteFile(path, []byte(conf.String()), 0o600); err != nil {
		return err
	}
	if s.as != nil {
		if err := os.Chown(path, int(s.as.Uid), int(s.as.Gid)); err != nil {
			return err
		}
	}
	s.args = append([]string{s.args[0], path}, flags...)
	return s.start()
}

// create makes the directory, finds a port and starts the server.
func (r *Redis) create(start func() error) error {
	program, err := find("redis-server", "redis-server")
	if err != nil {
		return err
	}
	// It may be one program of several names, and it goes by its name.
	program = filepath.Join(filepath.Dir(program), "redis-server")
	as, err := unprivileged()
	if err != nil {
		return err
	}
	dir, err := newDir(as)
	if err != nil {
		return err
	}
	ready := func(ctx context.Context) error {
		_, err := r.Do(ctx, "PING")
		return err
	}
	r.server = server{args: []string{program}, dir: dir, as: as, onExit: syscall.SIGKILL, ready: ready}
	// Another process may take the port in between.
	for try := 0; ; try++ {
		if r.port, err = freePort(); err == nil {
			err = start()
		}
		if err == nil {
			return nil
		}
		if try == 2 || !strings.Contains(r.server.lastWords(), "Address already in use") {
			return errors.Join(err, os.RemoveAll(dir))
		}
	}
}

// Do sends the server one command and returns its answer, of which an array is a list.
func (r *Redis) Do(ctx context.Context, command ...string) ([]string, error) {
	return do(ctx, r.Addr(), r.password, command...)
}

// Addr returns the host and port that the server listens on.
func (r *Redis) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(r.port)) }

// URL returns the server's URL, with the password.
func (r *Redis) URL() string {
	u := url.URL{Scheme: "redis", Host: r.Addr(), Path: "/0"}
	if r.password != "" {
		u.User = url.UserPassword("", r.password)
	}
	return u.String()
}

// Password returns the password of the default user.
func (r *Redis) Password() string { return r.password }

// Start starts the server again, with its data and on its port, and waits until
// it answers, after it has loaded its data.
func (r *Redis) Start() error { return r.server.start() }

// Stop stops the server in order: what is in memory is written first.
func (r *Redis) Stop() error { return r.server.stop(syscall.SIGTERM) }

// Kill kills the server, as "kill -9" does. When it returns it is gone.
func (r *Redis) Kill() error { return r.server.kill() }

// Close kills the server and removes its data.
func (r *Redis) Close() error {
	return errors.Join(r.server.kill(), os.RemoveAll(r.server.dir))
}

// together does the same with each of some servers.
func together(servers []*Redis, do func(*Redis) error) error {
	var errs []error
	for _, r := range servers {
		if r != nil {
			errs = append(errs, do(r))
		}
	}
	return errors.Join(errs...)
}

// A RedisSentinel is a primary with one replica and three sentinels, of which
// two must agree that the primary is down.
type RedisSentinel struct {
	Servers   []*Redis // the first one began as the primary
	Sentinels []*Redis
}

const sentinelName = "curfew"

// NewRedisSentinel starts one. The settings are those of the servers; see
// [NewRedis].
func NewRedisSentinel(settings ...string) (*RedisSentinel, error) {
	s := &RedisSentinel{}
	if err := s.start(settings); err != nil {
		return nil, errors.Join(fmt.Errorf("start Redis with sentinels: %w", err), s.Close())
	}
	return s, nil
}

func (s *RedisSentinel) start(settings []string) error {
	primary, err := newRedis(newPassword(), settings...)
	if err != nil {
		return err
	}
	s.Servers = append(s.Servers, primary)
	replica, err := primary.NewReplica(settings...)
	if err != nil {
		return err
	}
	s.Servers = append(s.Servers, replica)
	for range 3 {
		sentinel, err := newSentinel(primary)
		if err != nil {
			return err
		}
		s.Sentinels = append(s.Sentinels, sentinel)
	}
	// They find each other, and the replica, by way of the primary.
	for _, sentinel := range s.Sentinels {
		if err := sentinel.await("the sentinels know of each other", "status=ok,address="+primary.Addr()+",slaves=1,sentinels=3", "INFO", "sentinel"); err != nil {
			return err
		}
	}
	return nil
}

// await waits until a command is answered with a text in which there are words.
func (r *Redis) await(what, words string, command ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		info, err := r.Do(ctx, command...)
		if err == nil && strings.Contains(strings.Join(info, "\n"), words) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, errors.Join(ctx.Err(), err))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Name returns the name under which the sentinels know the primary.
func (s *RedisSentinel) Name() string { return sentinelName }

// Password returns the password of the servers. The sentinels have none.
func (s *RedisSentinel) Password() string { return s.Servers[0].password }

// Addrs returns the addresses of the sentinels.
func (s *RedisSentinel) Addrs() []string { return addrs(s.Sentinels) }

func addrs(servers []*Redis) (list []string) {
	for _, r := range servers {
		list = append(list, r.Addr())
	}
	return list
}

// URL returns an URL in the form of examples/op: the sentinels, the password of
// the servers, and the primary's name.
func (s *RedisSentinel) URL() string {
	u := url.URL{Scheme: "redis+sentinel", User: url.UserPassword("", s.Password()), Host: strings.Join(s.Addrs(), ","), Path: "/" + sentinelName}
	return u.String()
}

// Primary returns which of the servers the sentinels take for the primary.
func (s *RedisSentinel) Primary(ctx context.Context) (*Redis, error) {
	var last error
	for _, sentinel := range s.Sentinels {
		addr, err := sentinel.Do(ctx, "SENTINEL", "get-master-addr-by-name", sentinelName)
		if err != nil {
			last = err
			continue
		}
		for _, r := range s.Servers {
			if r.Addr() == strings.Join(addr, ":") {
				return r, nil
			}
		}
		last = fmt.Errorf("the sentinels know a primary at %v", addr)
	}
	return nil, last
}

// Close kills all of it and removes the data.
func (s *RedisSentinel) Close() error {
	return together(append(append([]*Redis(nil), s.Sentinels...), s.Servers...), (*Redis).Close)
}

// A RedisCluster is a Redis cluster of three primaries without replicas.
type RedisCluster struct {
	Servers []*Redis
}

const slots = 16384

// NewRedisCluster starts one. The settings are those of the servers; see
// [NewRedis].
func NewRedisCluster(settings ...string) (*RedisCluster, error) {
	c := &RedisCluster{}
	if err := c.start(settings); err != nil {
		return nil, errors.Join(fmt.Errorf("start a Redis cluster: %w", err), c.Close())
	}
	return c, nil
}

func (c *RedisCluster) start(settings []string) error {
	const n = 3
	password := newPassword()
	settings = append([]string{"cluster-enabled=yes", "cluster-config-file=nodes.conf", "cluster-node-timeout=5000"}, settings...)
	for range n {
		r, err := newRedis(password, settings...)
		if err != nil {
			return err
		}
		c.Servers = append(c.Servers, r)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for i, r := range c.Servers {
		for _, command := range []string{
			fmt.Sprintf("CLUSTER ADDSLOTSRANGE %d %d", i*slots/n, (i+1)*slots/n-1),
			fmt.Sprintf("CLUSTER SET-CONFIG-EPOCH %d", i+1),
			fmt.Sprintf("CLUSTER MEET 127.0.0.1 %d", c.Servers[0].port),
		} {
			if _, err := r.Do(ctx, strings.Fields(command)...); err != nil {
				return fmt.Errorf("%s: %w", command, err)
			}
		}
	}
	for _, r := range c.Servers {
		for _, words := range []string{fmt.Sprintf("cluster_known_nodes:%d", n), "cluster_state:ok"} {
			if err := r.await("the cluster is complete", words, "CLUSTER", "INFO"); err != nil {
				return err
			}
		}
	}
	return nil
}

// Password returns the password of the servers.
func (c *RedisCluster) Password() string { return c.Servers[0].password }

// Addrs returns the addresses of the servers.
func (c *RedisCluster) Addrs() []string { return addrs(c.Servers) }

// URL returns an URL in the form of examples/op.
func (c *RedisCluster) URL() string {
	u := url.URL{Scheme: "redis+cluster", User: url.UserPassword("", c.Password()), Host: strings.Join(c.Addrs(), ",")}
	return u.String()
}

// Start starts all servers that do not run. The cluster may take a moment more
// until it answers.
func (c *RedisCluster) Start() error { return together(c.Servers, (*Redis).Start) }

// Stop stops all servers in order.
func (c *RedisCluster) Stop() error { return together(c.Servers, (*Redis).Stop) }

// Kill kills all servers.
func (c *RedisCluster) Kill() error { return together(c.Servers, (*Redis).Kill) }

// Close kills all servers and removes the data.
func (c *RedisCluster) Close() error { return together(c.Servers, (*Redis).Close) }

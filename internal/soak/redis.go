package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	goredis "github.com/redis/go-redis/v9"

	private "github.com/curfew-oidc/curfew/internal/engine"
	"github.com/curfew-oidc/curfew/store"
	"github.com/curfew-oidc/curfew/store/redisstore"
)

// A redis is an engine. Its history is its append-only file: the commands in the
// order in which they were executed, those of one script between MULTI and EXEC.
type redis struct {
	server *private.Redis
	from   int64 // where what history returns next begins in the file
}

func newRedis() (*redis, error) {
	// The file is not rewritten: that would take the history away.
	server, err := private.NewRedis("auto-aof-rewrite-percentage=0")
	if err != nil {
		return nil, err
	}
	return &redis{server: server}, nil
}

func (e *redis) name() string { return "Redis" }
func (e *redis) url() string  { return e.server.URL() }
func (e *redis) close() error { return e.server.Close() }

func (e *redis) client() *goredis.Client {
	return goredis.NewClient(&goredis.Options{Addr: e.server.Addr(), Password: e.server.Password(), ContextTimeoutEnabled: true})
}

func (e *redis) open(ctx context.Context) (store.Store, func() error, error) {
	client := e.client()
	s, err := redisstore.New(ctx, client)
	if err != nil {
		return nil, nil, errors.Join(err, client.Close())
	}
	return s, client.Close, nil
}

// file returns the path of the append-only file that is written to.
func (e *redis) file(ctx context.Context) (_ string, err error) {
	client := e.client()
	defer func() { err = errors.Join(err, client.Close()) }()
	dir, err := client.ConfigGet(ctx, "dir").Result()
	if err != nil {
		return "", err
	}
	sub, err := client.ConfigGet(ctx, "appenddirname").Result()
	if err != nil {
		return "", err
	}
	files, err := filepath.Glob(filepath.Join(dir["dir"], sub["appenddirname"], "*.incr.aof"))
	if err != nil {
		return "", err
	}
	if len(files) != 1 {
		return "", fmt.Errorf("the server has %d append-only files that grow, not one", len(files))
	}
	return files[0], nil
}

func (e *redis) record(ctx context.Context) error {
	file, err := e.file(ctx)
	if err != nil {
		return err
	}
	info, err := os.Stat(file)
	if err == nil {
		e.from = info.Size()
	}
	return err
}

func (e *redis) history(ctx context.Context) (list []commit, err error) {
	path, err := e.file(ctx)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := file.Seek(e.from, io.SeekStart); err != nil {
		return nil, err
	}
	r := bufio.NewReader(file)
	var c commit
	several := false
	for {
		args, err := readCommand(r)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return list, nil // what is half written will be whole the next time
		}
		if err != nil {
			return nil, fmt.Errorf("append-only file: %w", err)
		}
		switch name := strings.ToUpper(args[0]); {
		case name == "MULTI":
			several = true
			continue
		case name == "EXEC":
			several = false
		case slices.Contains([]string{"SET", "DEL", "UNLINK"}, name):
			if c, err = appendExecuted(c, name, args[1:]); err != nil {
				return nil, err
			}
		}
		if several {
			continue
		}
		if len(c) > 0 {
			list = append(list, c)
			c = nil
		}
		read, err := file.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		e.from = read - int64(r.Buffered())
	}
}

// readCommand reads one command, in the protocol in which clients send it.
func readCommand(r *bufio.Reader) ([]string, error) {
	n, err := readNumber(r, '*')
	if err != nil {
		return nil, err
	}
	args := make([]string, n)
	for i := range args {
		size, err := readNumber(r, '$')
		if err != nil {
			return nil, unexpected(err)
		}
		text := make([]byte, size+2)
		if _, err := io.ReadFull(r, text); err != nil {
			return nil, unexpected(err)
		}
		args[i] = string(text[:size])
	}
	if n == 0 {
		return nil, errors.New("an empty command")
	}
	return args, nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func readNumber(r *bufio.Reader, mark byte) (int, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return 0, err
	}
	if line[0] != mark {
		return 0, fmt.Errorf("a line begins with %q, not with %q", line[0], mark)
	}
	return strconv.Atoi(strings.TrimSpace(line[1:]))
}

// appendExecuted appends what a command did to a session. A session's key is
// "curfew:{bucket}:s:" and its ID; its document is the end of the value.
func appendExecuted(c commit, name string, args []string) (commit, error) {
	for i, key := range args {
		_, id, isSession := strings.Cut(key, "}:s:")
		if !isSession || !strings.HasPrefix(key, "curfew:{") {
			if name == "SET" {
				break
			}
			continue
		}
		if name != "SET" {
			c = append(c, change{id: id})
			continue
		}
		value := []byte(args[i+1])
		start := bytes.Index(value, []byte(`{"v":`))
		if start < 0 {
			return nil, fmt.Errorf("session %s has no document in the append-only file", id)
		}
		s, err := parseSession(value[start:])
		if err != nil {
			return nil, err
		}
		return append(c, change{id: id, session: s}), nil
	}
	return c, nil
}

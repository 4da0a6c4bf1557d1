package engine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
)

// do sends one command to a Redis server over a connection of its own, and returns the
// answer; an array is a list. Drivers are not used here: what tests of the library use
// is a requirement of everybody who uses the library.
func do(ctx context.Context, addr, password string, command ...string) ([]string, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	in := bufio.NewReader(conn)
	if password != "" {
		if _, err := exchange(conn, in, "AUTH", password); err != nil {
			return nil, err
		}
	}
	return exchange(conn, in, command...)
}

func exchange(out io.Writer, in *bufio.Reader, command ...string) ([]string, error) {
	var request strings.Builder
	fmt.Fprintf(&request, "*%d\r\n", len(command))
	for _, word := range command {
		fmt.Fprintf(&request, "$%d\r\n%s\r\n", len(word), word)
	}
	if _, err := io.WriteString(out, request.String()); err != nil {
		return nil, err
	}
	return answer(in)
}

// answer reads one answer of the protocol in its second version.
func answer(in *bufio.Reader) ([]string, error) {
	line, err := in.ReadString('\n')
	if err != nil {
		return nil, err
	}
	kind, text := line[0], strings.TrimSuffix(line[1:], "\r\n")
	switch kind {
	case '+', ':':
		return []string{text}, nil
	case '-':
		return nil, errors.New(text)
	}
	n, err := strconv.Atoi(text)
	switch {
	case err != nil:
		return nil, fmt.Errorf("it answers %q: %w", line, err)
	case kind == '$' && n >= 0:
		value := make([]byte, n+len("\r\n"))
		_, err := io.ReadFull(in, value)
		return []string{string(value[:n])}, err
	case kind == '*':
		var list []string
		for range n {
			item, err := answer(in)
			if err != nil {
				return nil, err
			}
			list = append(list, item...)
		}
		return list, nil
	}
	return nil, nil // there is no such value
}

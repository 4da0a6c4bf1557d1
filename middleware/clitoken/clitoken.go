// Package clitoken keeps the login of a command line in a file, for any number of processes at
// once: the first that finds the access token too old refreshes it, and the others use the result.
//
//	file := clitoken.Open(dir, issuer, "cli")
//	login, err := file.Token(ctx, "", clitoken.Refresher(config, verifier))
//	var over *clitoken.EndedError
//	switch {
//	case errors.Is(err, clitoken.ErrNoLogin): // sign in
//	case errors.As(err, &over): // sign in again, because of over.Description
//	case err != nil: // try again later: the login is not lost
//	}
//	// call something with login.AccessToken
//
// It works with any provider, and uses the additional members of a Curfew provider.
//
// # What holds
//
// The file has mode 0600 and is replaced as a whole, so that a crash or a loss of power leaves the
// old one or the new one. If several processes need a refresh at the same time, one refreshes,
// under a lock that the system releases when its holder dies, however it dies. A process that dies
// after the provider's answer and before the write leaves the previous refresh token in the file; a
// provider that mends lost responses, such as Curfew, answers it again.
//
// Everything belongs to the user alone. The folder must be the user's, and writable for nobody
// else, or have the sticky bit, as /tmp does. The file and its lock must be regular files of mode
// 0600 that belong to the user, with no other name: a symbolic link, a pipe, a hard link or another
// user's file in their place is refused, and not touched. Windows has no such modes; there the
// folder's own permissions count.
//
// Only the provider's invalid_grant ends a login. A provider that is down, a missing network and a
// full disk leave the file unchanged.
package clitoken

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

var (
	// ErrNoLogin is wrapped by errors if nobody has signed in.
	ErrNoLogin = errors.New("nobody has signed in")

	// ErrBusy is wrapped by errors if the context ended before another process was done.
	ErrBusy = errors.New("another process is busy with the login")
)

// An EndedError is returned for a login that is over: the user must sign in again.
type EndedError struct {
	// Description is the provider's error_description. Curfew's begins with the
	// reason and a colon. It may be empty.
	Description string `json:"description"`

	At time.Time `json:"at"` // when it was noticed
}

func (e *EndedError) Error() string { return "the login is over: " + e.Description }

// A Login is the content of the file.
type Login struct {
	Issuer   string `json:"issuer"`
	ClientID string `json:"client_id"`
	Subject  string `json:"sub"`
	Name     string `json:"name,omitempty"` // for people: preferred_username, email or name; else Subject

	AccessToken  string    `json:"access_token,omitempty"`
	Expiry       time.Time `json:"expiry,omitzero"` // of AccessToken; zero: not known
	RefreshToken string    `json:"refresh_token,omitempty"`

	// SignedIn is when the user entered credentials, Ends when the login is over
	// whatever happens, and EndsUnused when it is over if it is not used. They are from the last
	// refresh, and zero if the provider does not say.
	SignedIn   time.Time `json:"signed_in,omitzero"`
	Ends       time.Time `json:"ends,omitzero"`
	EndsUnused time.Time `json:"ends_unused,omitzero"`

	// Ended is set, and the tokens are removed, when the provider has ended the login.
	Ended *EndedError `json:"over,omitempty"`
}

// usable reports whether the access token is good for so long from now.
func (l Login) usable(now time.Time, left time.Duration) bool {
	return l.AccessToken != "" && (l.Expiry.IsZero() || now.Add(left).Before(l.Expiry))
}

// A File keeps the login of one client at one provider. Any number of goroutines and processes may
// use it.
type File struct {
	path string
}

// Open returns the file for a provider and a client in a folder, which is created when it is
// needed. Each provider and client has its own file.
func Open(dir, issuer, clientID string) *File {
	sum := sha256.Sum256([]byte(issuer + "\x00" + clientID))
	return &File{filepath.Join(dir, "login-"+hex.EncodeToString(sum[:8])+".json")}
}

// Path returns the name of the file.
func (f *File) Path() string { return f.path }

// maxFile bounds what is read: more than any tokens come to.
const maxFile = 1 << 20

// Load reads the file. If nobody has signed in the error wraps [ErrNoLogin]. A login that is over
// is returned without error. A file that another user may have put there is refused: see the
// package's comment.
func (f *File) Load() (Login, error) {
	err := checkFolder(filepath.Dir(f.path))
	var file *os.File
	if err == nil {
		file, err = openOwn(f.path, os.O_RDONLY)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return Login{}, fmt.Errorf("%w: there is no %s", ErrNoLogin, f.path)
	}
	if err != nil {
		return Login{}, fmt.Errorf("%w; then sign in again", err)
	}
	defer func() { _ = file.Close() }() // it was read only
	body, err := io.ReadAll(io.LimitReader(file, maxFile))
	if err != nil {
		return Login{}, err
	}
	var l Login
	if err := json.Unmarshal(body, &l); err != nil {
		// Not the parser's words, which may quote a token.
		return Login{}, fmt.Errorf("%s is damaged; remove it and sign in again", f.path)
	}
	return l, nil
}

// Save writes a new login, and replaces any earlier one.
func (f *File) Save(ctx context.Context, l Login) error {
	unlock, err := f.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	w, err := f.prepare()
	if err != nil {
		return err
	}
	return w.commit(l)
}

// Remove calls end with the login, to tell the provider, and removes the file if end returns no
// error. No process refreshes meanwhile. If nobody has signed in the error
// wraps [ErrNoLogin].
func (f *File) Remove(ctx context.Context, end func(context.Context, Login) error) error {
	unlock, err := f.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	l, err := f.Load()
	if err != nil {
		return err
	}
	if err := end(ctx, l); err != nil {
		return err
	}
	if err := os.Remove(f.path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(f.path))
}

// margin is how long an access token should be good for when it is handed out.
const margin = 10 * time.Second

// refreshLimit is how long a refresh may take. It goes on when the caller is
// interrupted: the answer may be the only one.
const refreshLimit = 30 * time.Second

// Token returns the login with a valid access token, and refreshes it if necessary. refused is an
// access token that an API refused although it looked valid; empty if there is no such token. If
// several processes call it at the same time, one refreshes.
//
// The error wraps [ErrNoLogin], [ErrBusy] or an [*EndedError]; after any other error the login is
// unchanged, and the call may be repeated.
func (f *File) Token(ctx context.Context, refused string, refresh func(context.Context, Login) (Login, error)) (Login, error) {
	before, err := f.Load()
	if err != nil {
		return Login{}, err
	}
	if before.AccessToken != refused && before.usable(time.Now(), margin) {
		return before, nil
	}
	unlock, err := f.lock(ctx)
	if err != nil {
		return Login{}, err
	}
	defer unlock()
	l, err := f.Load()
	if err != nil {
		return Login{}, err
	}
	if l.Ended != nil {
		return Login{}, l.Ended
	}
	// Somebody else has refreshed, since we looked or since refused was read.
	left := margin
	if l.AccessToken != before.AccessToken {
		left = 0
	}
	if l.AccessToken != refused && l.usable(time.Now(), left) {
		return l, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refreshLimit)
	defer cancel()
	return f.renew(ctx, l, refresh)
}

// renew refreshes, under the lock.
func (f *File) renew(ctx context.Context, l Login, refresh func(context.Context, Login) (Login, error)) (Login, error) {
	// Before the provider is asked: a folder that cannot be written to is no reason
	// to spend the refresh token.
	w, err := f.prepare()
	if err != nil {
		return Login{}, err
	}
	defer w.discard()
	if l.RefreshToken == "" {
		over := &EndedError{Description: "the provider gave no refresh token, and the access token has expired", At: time.Now().UTC()}
		return Login{}, errors.Join(over, w.commit(l.ended(over)))
	}
	next, err := refresh(ctx, l)
	var over *EndedError
	switch {
	case errors.As(err, &over):
		return Login{}, errors.Join(err, w.commit(l.ended(over)))
	case err != nil:
		return Login{}, err
	}
	if err := w.commit(next); err != nil {
		return Login{}, err
	}
	return next, nil
}

// ended returns what is remembered of a login that is over: not its tokens.
func (l Login) ended(over *EndedError) Login {
	l.AccessToken, l.RefreshToken, l.Ended = "", "", over
	return l
}

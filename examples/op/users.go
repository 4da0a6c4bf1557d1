package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/mail"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
	"golang.org/x/crypto/bcrypt"

	"github.com/curfew-oidc/curfew/policy"
	"github.com/curfew-oidc/curfew/store"
)

// A user is one entry of the users file.
type user struct {
	Username     string   `yaml:"username"`
	Password     string   `yaml:"password"`      // hashed when the file is read, and forgotten
	PasswordHash string   `yaml:"password_hash"` // bcrypt, instead of password
	Subject      string   `yaml:"sub"`
	Name         string   `yaml:"name"`     // for the scope profile; none: the username
	Email        string   `yaml:"email"`    // for the scope email; none: nothing is said
	Accounts     []string `yaml:"accounts"` // none: "default"
	Groups       []string `yaml:"groups"`   // in each of the accounts
	Roles        []string `yaml:"roles"`
}

// administrator is the one role: its holders may act as others.
const administrator = "administrator"

func (u *user) isAdministrator() bool { return slices.Contains(u.Roles, administrator) }

// users are all users. They do not change while the process runs.
type users struct {
	byName    map[string]*user
	bySubject map[string]*user

	// nobody is the hash that the password of an unknown user is compared
	// with, so that it takes as long as that of a known one.
	nobody []byte

	// busy bounds how many passwords are hashed at once: all of them at once
	// would leave no processor to the rest.
	busy chan struct{}
}

// What a subject may look like: op joins it to a token's ID with a colon, and
// OpenID Connect Core 1.0 section 2 allows 255 ASCII characters.
var subjectPattern = regexp.MustCompile(`^[!-9;-~]{1,255}$`)

// parseUsers reads a users file, a sequence in YAML. It names the entry in its
// errors and repeats no password.
func parseUsers(data []byte) (*users, error) {
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	var list []*user
	if err := d.Decode(&list); err != nil && !errors.Is(err, io.EOF) {
		return nil, yamlError(err)
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is a second document")
	}
	if len(list) == 0 {
		return nil, errors.New("there are no users")
	}
	return newUsers(list)
}

// yamlValue is what yaml repeats of the file in the error about a value of the
// wrong type. It could be a password.
var yamlValue = regexp.MustCompile("`[^`]*`")

func yamlError(err error) error {
	return errors.New(yamlValue.ReplaceAllString(strings.TrimPrefix(err.Error(), "yaml: "), "a value"))
}

func newUsers(list []*user) (*users, error) {
	us := &users{
		byName: map[string]*user{}, bySubject: map[string]*user{},
		busy: make(chan struct{}, max(1, runtime.GOMAXPROCS(0))),
	}
	for i, u := range list {
		fail := func(field, format string, args ...any) error {
			return fmt.Errorf("entry %d: %s: %s", i+1, field, fmt.Sprintf(format, args...))
		}
		if u == nil {
			return nil, fmt.Errorf("entry %d: it is empty", i+1)
		}
		switch {
		case u.Username == "" || u.Username != strings.TrimSpace(u.Username) || len(u.Username) > maxUsername:
			return nil, fail("username", "want 1 to %d bytes without space around them", maxUsername)
		case us.byName[u.Username] != nil:
			return nil, fail("username", "%q appears twice", u.Username)
		case !subjectPattern.MatchString(u.Subject):
			return nil, fail("sub", "want 1 to 255 printable ASCII characters without space and colon")
		case us.bySubject[u.Subject] != nil:
			return nil, fail("sub", "%q appears twice", u.Subject)
		case len(u.Name) > maxUsername:
			return nil, fail("name", "it has more than %d bytes", maxUsername)
		case u.Email != "" && !isEmail(u.Email):
			return nil, fail("email", "want an address such as alice@example.com")
		case (u.Password == "") == (u.PasswordHash == ""):
			return nil, fail("password", "want either password or password_hash")
		case len(u.Password) > maxPassword:
			return nil, fail("password", "it has more than the %d bytes that bcrypt looks at", maxPassword)
		}
		if u.PasswordHash != "" {
			switch cost, err := bcrypt.Cost([]byte(u.PasswordHash)); {
			case err != nil:
				return nil, fail("password_hash", "want a bcrypt hash, which starts with $2a$, $2b$ or $2y$")
			case cost > maxCost:
				return nil, fail("password_hash", "its cost is %d, at most %d is allowed: each sign-in would take too long", cost, maxCost)
			}
		}
		if len(u.Accounts) == 0 {
			u.Accounts = []string{"default"}
		}
		for _, f := range []struct {
			name string
			list []string
		}{{"accounts", u.Accounts}, {"groups", u.Groups}, {"roles", u.Roles}} {
			for j, name := range f.list {
				switch {
				case name == "":
					return nil, fail(f.name, "one is empty")
				case slices.Contains(f.list[:j], name):
					return nil, fail(f.name, "%q appears twice", name)
				case f.name == "roles" && name != administrator:
					return nil, fail(f.name, "%q is not known; the only role is %q", name, administrator)
				}
			}
		}
		us.byName[u.Username], us.bySubject[u.Subject] = u, u
	}
	return us, us.hash(list)
}

// isEmail reports whether a text is an address and nothing else.
func isEmail(text string) bool {
	a, err := mail.ParseAddress(text)
	return err == nil && a.Address == text && len(text) <= maxUsername
}

const (
	maxUsername = 255
	maxPassword = 72 // bcrypt ignores what comes after
	maxCost     = 16 // of bcrypt: a few seconds
)

// hash replaces the plain passwords by hashes, on all processors: each takes a
// while, as it should.
func (us *users) hash(list []*user) error {
	var wg sync.WaitGroup
	errs := make([]error, len(list))
	cost := 0 // of nobody: the highest there is
	for i, u := range list {
		if u.PasswordHash != "" {
			c, err := bcrypt.Cost([]byte(u.PasswordHash))
			if err != nil {
				return err
			}
			cost = max(cost, c)
			continue
		}
		cost = max(cost, bcrypt.DefaultCost)
		us.busy <- struct{}{}
		wg.Go(func() {
			defer func() { <-us.busy }()
			hash, err := bcrypt.GenerateFromPassword([]byte(u.Password), bcrypt.DefaultCost)
			u.Password, u.PasswordHash, errs[i] = "", string(hash), err
		})
	}
	wg.Wait()
	var err error
	us.nobody, err = bcrypt.GenerateFromPassword([]byte("nobody has this password"), cost)
	return errors.Join(append(errs, err)...)
}

// errWrongPassword is the same for a wrong password and an unknown user.
var errWrongPassword = errors.New("wrong username or password")

// enter waits until a password may be checked. leave must be called once.
func (us *users) enter(ctx context.Context) (leave func(), err error) {
	select {
	case us.busy <- struct{}{}:
		return func() { <-us.busy }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// authenticate checks a password. It takes as long for a user who does not
// exist.
func (us *users) authenticate(username, password string) (*user, error) {
	u, ok := us.byName[username]
	hash := us.nobody
	if ok {
		hash = []byte(u.PasswordHash)
	}
	if len(password) > maxPassword {
		password, ok = password[:maxPassword], false
	}
	if bcrypt.CompareHashAndPassword(hash, []byte(password)) != nil || !ok {
		return nil, errWrongPassword
	}
	return u, nil
}

// membership is the hook's Config.Membership. A user who is not in the file any
// more is in no account; the storage ends what is left of their sessions.
func (us *users) membership(_ context.Context, subject store.Subject) ([]policy.Membership, error) {
	u, ok := us.bySubject[subject.ID]
	if !ok {
		return nil, nil
	}
	list := make([]policy.Membership, len(u.Accounts))
	for i, account := range u.Accounts {
		list[i] = policy.Membership{Account: account, Groups: u.Groups}
	}
	return list, nil
}

// sorted returns the users by name.
func (us *users) sorted() []*user {
	list := make([]*user, 0, len(us.byName))
	for _, u := range us.byName {
		list = append(list, u)
	}
	slices.SortFunc(list, func(a, b *user) int { return cmp.Compare(a.Username, b.Username) })
	return list
}

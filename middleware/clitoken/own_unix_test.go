//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package clitoken

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// chmod sets a mode that the umask has no say in.
func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	require.NoError(t, os.Chmod(path, mode))
}

func TestCheckFolder(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		mode os.FileMode
		want string
	}{
		"of the user":            {0o700, ""},
		"that others may read":   {0o755, ""},
		"of the group":           {0o770, "has mode 0770"},
		"of everybody":           {0o777, "has mode 0777"},
		"like /tmp":              {0o777 | os.ModeSticky, ""},
		"of the group, like it":  {0o770 | os.ModeSticky, ""},
		"in which others create": {0o702, "has mode 0702"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			chmod(t, dir, test.mode)
			link := filepath.Join(t.TempDir(), "link")
			require.NoError(t, os.Symlink(dir, link))
			for _, dir := range []string{dir, link} {
				err := checkFolder(dir)
				if test.want == "" {
					require.NoError(t, err)
					continue
				}
				require.ErrorContains(t, err, test.want)
				require.ErrorContains(t, err, dir)
			}
			// What is below it is as good as it is to those who may write there.
			below := filepath.Join(dir, "below")
			require.NoError(t, os.Mkdir(below, 0o700))
			if err := checkFolder(below); test.mode.Perm()&0o002 != 0 && test.mode&os.ModeSticky == 0 {
				require.ErrorContains(t, err, "above "+below)
			} else {
				require.NoError(t, err)
			}
		})
	}
	require.ErrorIs(t, checkFolder(filepath.Join(t.TempDir(), "missing")), os.ErrNotExist)
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.ErrorContains(t, checkFolder(file), "is no folder")
	require.ErrorContains(t, private(file, asOther(t, file)), "belongs to another user")
}

// asOther is a file's information as if somebody else owned it: to give one away takes
// a right that a test may not have.
func asOther(t *testing.T, path string) os.FileInfo {
	t.Helper()
	info, err := os.Lstat(path)
	require.NoError(t, err)
	info.Sys().(*syscall.Stat_t).Uid = uint32(os.Geteuid() + 1)
	return info
}

func TestOpenOwn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	_, err := openOwn(path, os.O_RDONLY)
	require.ErrorIs(t, err, os.ErrNotExist)
	file, err := openOwn(path, os.O_RDWR|os.O_CREATE)
	require.NoError(t, err)
	info, err := file.Stat()
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	require.NoError(t, file.Close())

	refused := func(path, want string) {
		t.Helper()
		for _, flag := range []int{os.O_RDONLY, os.O_RDWR | os.O_CREATE} {
			file, err := openOwn(path, flag)
			if file != nil {
				require.NoError(t, file.Close())
			}
			require.ErrorContains(t, err, want)
			require.ErrorContains(t, err, path)
		}
	}
	target, link := filepath.Join(t.TempDir(), "target"), filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(target, link))
	refused(link, "is a symbolic link")
	require.NoFileExists(t, target)
	require.NoError(t, os.WriteFile(target, nil, 0o600))
	refused(link, "is a symbolic link")

	pipe := filepath.Join(dir, "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	refused(pipe, "is a pipe")
	refused(dir, "is no regular file")

	second := filepath.Join(dir, "second")
	require.NoError(t, os.Link(path, second))
	refused(path, "has another name")
	require.NoError(t, os.Remove(second))
	for _, mode := range []os.FileMode{0o640, 0o604, 0o602, 0o660} {
		chmod(t, path, mode)
		refused(path, "has mode 0"+string([]byte{'0' + byte(mode>>6), '0' + byte(mode>>3&7), '0' + byte(mode&7)}))
	}
}

// The look before the opening is only for the words: whoever puts a link or a pipe there
// after it is refused as well.
func TestOpenOwnDoesNotTrustTheFirstLook(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	link, pipe := filepath.Join(dir, "link"), filepath.Join(dir, "pipe")
	require.NoError(t, os.Symlink(filepath.Join(dir, "target"), link))
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	_, err := os.OpenFile(link, os.O_RDWR|os.O_CREATE|noFollow, 0o600)
	require.Error(t, err)
	file, err := os.OpenFile(pipe, os.O_RDONLY|noFollow, 0o600)
	require.NoError(t, err, "at once")
	info, err := file.Stat()
	require.NoError(t, err)
	require.ErrorContains(t, private(pipe, info), "is a pipe")
	require.NoError(t, file.Close())
}

// In a folder that others can write to, what they planted is refused, and neither
// followed nor touched: at each of the names that a file has.
func TestPlanted(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	login := Login{Issuer: "https://op.example", ClientID: "cli", AccessToken: "a", RefreshToken: "r", Expiry: time.Now().Add(-time.Second)}
	refresh := func(context.Context, Login) (Login, error) { return Login{}, errors.New("the provider was asked") }
	uses := map[string]func(f *File) error{
		"load":  func(f *File) error { _, err := f.Load(); return err },
		"token": func(f *File) error { _, err := f.Token(ctx, "", refresh); return err },
		"remove": func(f *File) error {
			return f.Remove(ctx, func(context.Context, Login) error { return errors.New("the provider was told") })
		},
		"save": func(f *File) error { return f.Save(ctx, login) },
	}
	t.Run("a folder of everybody", func(t *testing.T) {
		dir := t.TempDir()
		f := Open(dir, "https://op.example", "cli")
		require.NoError(t, f.Save(ctx, login))
		for _, mode := range []os.FileMode{0o777, 0o775} {
			chmod(t, dir, mode)
			for name, use := range uses {
				err := use(f)
				require.ErrorContains(t, err, "others can put files there", name)
				require.NotErrorIs(t, err, ErrNoLogin, name)
			}
		}
	})
	for suffix, names := range map[string][]string{"": {"load", "token", "remove"}, ".lock": {"save", "token", "remove"}} {
		for what, plant := range map[string]func(t *testing.T, path, target string) error{
			"a symbolic link to nothing": func(_ *testing.T, path, target string) error { return os.Symlink(target, path) },
			"a symbolic link to a file": func(t *testing.T, path, target string) error {
				require.NoError(t, os.WriteFile(target, []byte(`{"issuer":"https://evil.example","refresh_token":"planted"}`), 0o600))
				return os.Symlink(target, path)
			},
			"a pipe": func(_ *testing.T, path, _ string) error { return syscall.Mkfifo(path, 0o600) },
			"a hard link": func(t *testing.T, path, target string) error {
				require.NoError(t, os.WriteFile(target, []byte(`{"refresh_token":"planted"}`), 0o600))
				return os.Link(target, path)
			},
			"a file that others may read": func(t *testing.T, path, _ string) error {
				require.NoError(t, os.WriteFile(path, []byte(`{"refresh_token":"planted"}`), 0o644))
				return os.Chmod(path, 0o644)
			},
			"a folder": func(_ *testing.T, path, _ string) error { return os.Mkdir(path, 0o700) },
		} {
			t.Run("like /tmp, "+what+" as the file"+suffix, func(t *testing.T) {
				dir := t.TempDir()
				chmod(t, dir, 0o777|os.ModeSticky)
				f := Open(dir, "https://op.example", "cli")
				require.NoError(t, f.Save(ctx, login))
				require.NoError(t, os.Remove(f.Path()+suffix))
				target := filepath.Join(dir, "target")
				require.NoError(t, plant(t, f.Path()+suffix, target))
				before, _ := os.ReadFile(target)
				for _, name := range names {
					err := uses[name](f)
					require.ErrorContains(t, err, f.Path()+suffix, name)
					require.NotErrorIs(t, err, ErrNoLogin, name)
				}
				after, _ := os.ReadFile(target)
				require.Equal(t, string(before), string(after))
				if what == "a symbolic link to nothing" {
					require.NoFileExists(t, target)
				}
			})
		}
	}
}

// Another process may replace the file while this one opens it: what was opened has no
// name then, and is opened again.
func TestAFileThatIsReplacedWhileItIsOpened(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "login.json")
	require.NoError(t, os.WriteFile(path, []byte("0"), 0o600))
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			next := filepath.Join(dir, "next")
			if os.WriteFile(next, []byte("1"), 0o600) != nil || os.Rename(next, path) != nil {
				return
			}
		}
	}()
	for range 20_000 {
		file, err := openOwn(path, os.O_RDONLY)
		require.NoError(t, err)
		require.NoError(t, file.Close())
	}
	close(stop)
	<-stopped
}

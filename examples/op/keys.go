package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/curfew-oidc/curfew/provider"
	"github.com/curfew-oidc/curfew/store"
)

// The keys are all that an attacker needs besides the store, and all that
// makes the store's sessions usable: they are in a file of their own, mode
// 0600, made once.
type keys struct {
	// signing keys sign ID tokens and JWT access tokens. The first one signs;
	// all are published, so that what another one signed is still good.
	signing []signingKey

	// crypto encrypts op's opaque access tokens and codes.
	crypto [32]byte

	// sealing keys are the hook's.
	sealing provider.Keys

	// storeID is what the store is called that they are used with: an empty one is
	// not new then, but has lost what it had. Empty: they were not used yet.
	storeID string
}

// keysFile is the form on disk.
type keysFile struct {
	SigningKeys []jose.JSONWebKey `json:"signing_keys"`
	CryptoKey   string            `json:"crypto_key"` // 32 bytes, unpadded base64url
	SealingKeys []string          `json:"sealing_keys"`
}

// A signingKey is op.SigningKey, and with its public half op.Key.
type signingKey struct {
	jwk jose.JSONWebKey
}

func (k signingKey) ID() string { return k.jwk.KeyID }
func (k signingKey) SignatureAlgorithm() jose.SignatureAlgorithm {
	return jose.SignatureAlgorithm(k.jwk.Algorithm)
}
func (k signingKey) Key() any { return k.jwk.Key }

type publicKey struct{ signingKey }

func (k publicKey) Algorithm() jose.SignatureAlgorithm { return k.SignatureAlgorithm() }
func (k publicKey) Use() string                        { return "sig" }
func (k publicKey) Key() any                           { return k.jwk.Public().Key }

func (k *keys) public() []op.Key {
	list := make([]op.Key, len(k.signing))
	for i, s := range k.signing {
		list[i] = publicKey{s}
	}
	return list
}

// newKeysFile makes keys with the system's randomness. alg is RS256 or ES256.
func newKeysFile(alg jose.SignatureAlgorithm, now time.Time) (*keysFile, error) {
	var private crypto.Signer
	var err error
	if alg == jose.ES256 {
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	} else {
		private, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		return nil, fmt.Errorf("make a signing key: %w", err)
	}
	jwk := jose.JSONWebKey{Key: private, Algorithm: string(alg), Use: "sig"}
	thumbprint, err := jwk.Thumbprint(crypto.SHA256) // RFC 7638
	if err != nil {
		return nil, fmt.Errorf("make a signing key: %w", err)
	}
	jwk.KeyID = base64.RawURLEncoding.EncodeToString(thumbprint[:12])
	sealing, err := provider.NewKey(now).MarshalText()
	if err != nil {
		return nil, fmt.Errorf("make a sealing key: %w", err)
	}
	var secret [32]byte
	rand.Read(secret[:])
	return &keysFile{
		SigningKeys: []jose.JSONWebKey{jwk},
		CryptoKey:   base64.RawURLEncoding.EncodeToString(secret[:]),
		SealingKeys: []string{string(sealing)},
	}, nil
}

// createKeys writes new keys to path, unless somebody else has done so.
// The file is complete from its first moment: it gets its name last, and a name
// that is taken is left alone.
func createKeys(path string, alg jose.SignatureAlgorithm, now time.Time) error {
	file, err := newKeysFile(alg, now)
	if err != nil {
		return err
	}
	body, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return fmt.Errorf("encode keys: %w", err)
	}
	return writeFile(path, append(body, '\n'), func(tmp string) error {
		if err := os.Link(tmp, path); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return os.Remove(tmp)
	})
}

// markOf returns the file beside the keys that says which store they are used with: in
// the keys themselves the versions before would not take it. Links are followed.
func markOf(keys string) (string, error) {
	path, err := filepath.EvalSymlinks(keys)
	return path + ".store", err
}

// markKeys writes down which store the keys are used with.
func markKeys(keys, storeID string) error {
	path, err := markOf(keys)
	if err != nil {
		return err
	}
	return writeFile(path, []byte(storeID+"\n"), func(tmp string) error { return os.Rename(tmp, path) })
}

// readMark returns the ID of the store that the keys are used with; empty if nobody
// wrote it down.
func readMark(keys string) (string, error) {
	path, err := markOf(keys)
	if err != nil {
		return "", err
	}
	body, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(body)), err
}

// writeFile writes a file beside path, which then gets its name by place.
func writeFile(path string, body []byte, place func(tmp string) error) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".keys-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = tmp.Write(body)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = place(tmp.Name())
	}
	if err != nil {
		// What is left of it under its first name has to go in any case.
		return errors.Join(err, os.RemoveAll(tmp.Name()))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// maxFile bounds the files that are read at the start.
const maxFile = 8 << 20

// readFile reads a file that is not too large to be what it should be.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s has %d bytes, more than the allowed %d", path, info.Size(), maxFile)
	}
	return os.ReadFile(path)
}

// loadKeys reads the keys. Its errors do not repeat what is in the file.
func loadKeys(path string) (*keys, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o: others can read or change it; make it 0600 (chmod 600), and make new keys if somebody may have read it", path, mode)
	}
	body, err := readFile(path)
	if err != nil {
		return nil, err
	}
	var file keysFile
	if err := strictJSON(body, &file); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	k := &keys{}
	if k.storeID, err = readMark(path); err != nil {
		return nil, err
	}
	for i, jwk := range file.SigningKeys {
		alg := jose.SignatureAlgorithm(jwk.Algorithm)
		switch key := jwk.Key.(type) {
		case *rsa.PrivateKey:
			if alg != jose.RS256 || key.N.BitLen() < 2048 {
				return nil, fmt.Errorf("%s: signing_keys[%d]: an RSA key has to have alg RS256 and at least 2048 bits", path, i)
			}
		case *ecdsa.PrivateKey:
			if alg != jose.ES256 || key.Curve != elliptic.P256() {
				return nil, fmt.Errorf("%s: signing_keys[%d]: an EC key has to have alg ES256 and curve P-256", path, i)
			}
		default:
			return nil, fmt.Errorf("%s: signing_keys[%d]: it must be a private RSA or EC key", path, i)
		}
		if jwk.KeyID == "" || slices.ContainsFunc(k.signing, func(s signingKey) bool { return s.ID() == jwk.KeyID }) {
			return nil, fmt.Errorf("%s: signing_keys[%d]: kid is missing or not unique", path, i)
		}
		k.signing = append(k.signing, signingKey{jwk})
	}
	if len(k.signing) == 0 {
		return nil, fmt.Errorf("%s: signing_keys: at least one is required", path)
	}
	secret, err := base64.RawURLEncoding.Strict().DecodeString(file.CryptoKey)
	if err != nil || len(secret) != len(k.crypto) {
		return nil, fmt.Errorf("%s: crypto_key: want %d bytes in unpadded base64url", path, len(k.crypto))
	}
	k.crypto = [32]byte(secret)
	for i, text := range file.SealingKeys {
		var key provider.Key
		if err := key.UnmarshalText([]byte(text)); err != nil {
			return nil, fmt.Errorf("%s: sealing_keys[%d]: %w", path, i, err)
		}
		k.sealing = append(k.sealing, key)
	}
	if len(k.sealing) == 0 {
		return nil, fmt.Errorf("%s: sealing_keys: at least one is required", path)
	}
	return k, nil
}

// keyRing is what the store remembers of the keys that its data was made with:
// names and digests, nothing that helps to guess a key. A process with other
// keys would find every session unusable and sign everybody out; it must not
// start.
type keyRing struct {
	Signing []keyUse `json:"signing"`
	Sealing []keyUse `json:"sealing"`
	Crypto  string   `json:"crypto"`
}

// A keyUse is one key. Since is zero while the key is the first one of its
// kind, which makes new tokens, and else when it ceased to be.
type keyUse struct {
	ID    string    `json:"id"`
	Since time.Time `json:"since,omitzero"`
}

// ringDocument is the name of the keyRing in the store.
const ringDocument = "examples/op/keys"

// keyRetention is for how long a key is needed after it made its last token:
// the longest Active that settings may have.
const keyRetention = 720 * time.Hour

func (k *keys) cryptoID() string {
	sum := sha256.Sum256(append([]byte("curfew examples/op crypto key\x00"), k.crypto[:]...))
	return hex.EncodeToString(sum[:8])
}

// ring makes the next keyRing from the one in the store, or says which key is
// missing.
func (k *keys) ring(known keyRing, now time.Time) (keyRing, error) {
	next := keyRing{Crypto: k.cryptoID()}
	var missing []string
	if known.Crypto != "" && known.Crypto != next.Crypto {
		missing = append(missing, "the crypto key "+known.Crypto)
	}
	uses := func(what string, ids []string, known []keyUse) []keyUse {
		var list []keyUse
		for i, id := range ids {
			use := keyUse{ID: id}
			if at := slices.IndexFunc(known, func(u keyUse) bool { return u.ID == id }); i > 0 {
				use.Since = now.UTC().Truncate(time.Second)
				if at >= 0 && !known[at].Since.IsZero() {
					use.Since = known[at].Since
				}
			}
			list = append(list, use)
		}
		for _, use := range known {
			if !slices.Contains(ids, use.ID) && (use.Since.IsZero() || now.Sub(use.Since) < keyRetention) {
				missing = append(missing, "the "+what+" key "+use.ID)
			}
		}
		return list
	}
	var signing, sealing []string
	for _, s := range k.signing {
		signing = append(signing, s.ID())
	}
	for _, s := range k.sealing {
		sealing = append(sealing, s.ID())
	}
	next.Signing = uses("signing", signing, known.Signing)
	next.Sealing = uses("sealing", sealing, known.Sealing)
	if missing != nil {
		return keyRing{}, fmt.Errorf("%w: %s", errForeignKeys, strings.Join(missing, ", "))
	}
	return next, nil
}

var errForeignKeys = errors.New("the store has data that needs missing keys")

const foreignKeysHelp = "put the file with these keys back (a key may go %s after another one took its place at the front), or start with another, empty store and -accept-empty-store, which signs everybody out"

// errEmptyStore is for a store that is empty, and for keys that were used with one that
// is not.
var errEmptyStore = errors.New("the keys were used with a store that had data, and this store is empty: restore its data, or start once with -accept-empty-store, which signs everybody out and begins without settings")

// openKeys returns the keys that belong to the store. Only for a store that was
// never used are keys made. One that is empty is new if the keys are, too, or if the
// operator says so.
func openKeys(ctx context.Context, path string, alg jose.SignatureAlgorithm, docs store.Documents, emptyIsNew bool, now time.Time) (*keys, error) {
	help := fmt.Sprintf(foreignKeysHelp, keyRetention)
	for {
		var known keyRing
		doc, err := docs.Document(ctx, ringDocument)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, fmt.Errorf("read from the store which keys it was used with: %w", err)
		}
		if err == nil {
			if err := json.Unmarshal(doc.Body, &known); err != nil {
				return nil, fmt.Errorf("read from the store which keys it was used with: %w", err)
			}
		}
		k, err := loadKeys(path)
		if errors.Is(err, fs.ErrNotExist) {
			if doc.Version > 0 {
				return nil, &usageError{"keys", fmt.Errorf("%s does not exist, but the store was used with keys; %s", path, help)}
			}
			err = createKeys(path, cmpAlg(alg), now)
			if err == nil {
				k, err = loadKeys(path)
			}
		}
		if err != nil {
			return nil, &usageError{"keys", err}
		}
		if k.storeID != "" && doc.Version == 0 && !emptyIsNew {
			// The keys are marked after the store knows them: if another process
			// did both meanwhile, it does now.
			_, err := docs.Document(ctx, ringDocument)
			switch {
			case errors.Is(err, store.ErrNotFound):
				return nil, &usageError{"keys", fmt.Errorf("%s: %w (its ID was %s)", path, errEmptyStore, k.storeID)}
			case err != nil:
				return nil, fmt.Errorf("read from the store which keys it was used with: %w", err)
			}
			continue
		}
		if have := k.signing[0].SignatureAlgorithm(); alg != "" && alg != have {
			return nil, &usageError{"signing-alg", fmt.Errorf("%s was asked for, but the first key in %s is for %s; the flag is for making a new file", alg, path, have)}
		}
		next, err := k.ring(known, now)
		if err != nil {
			return nil, &usageError{"keys", fmt.Errorf("%s: %w; %s", path, err, help)}
		}
		body, err := json.Marshal(next)
		if err != nil {
			return nil, err
		}
		if string(body) == string(doc.Body) {
			return k, nil
		}
		_, err = docs.PutDocument(ctx, store.Document{Key: ringDocument, Version: doc.Version, Body: body, At: now, By: "examples/op", Message: "start"})
		if err == nil {
			return k, nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return nil, fmt.Errorf("write to the store which keys it is used with: %w", err)
		}
		// Another process started at the same time: look again.
	}
}

// cmpAlg is the algorithm for a new key where none was asked for: RS256, which
// every client understands (OpenID Connect Core 1.0 section 15.1).
func cmpAlg(alg jose.SignatureAlgorithm) jose.SignatureAlgorithm {
	if alg == "" {
		return jose.RS256
	}
	return alg
}

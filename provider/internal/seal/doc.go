// Package seal owns the keys, and what clients and browsers hold of them: refresh
// tokens, the IDs of access tokens, and the small records in cookies and forms.
//
// What is sealed is encrypted and authenticated with XChaCha20-Poly1305, whose
// 24-byte nonces may be random. Its text is
//
//	prefix keyID "." base64url(nonce ciphertext)
//
// It has one dot, so that neither the JWE decrypter of op (five parts) nor its JWT verifier (three)
// accepts it. It has no ':', which op puts between an access token's ID and its subject. Prefix and
// key ID are authenticated, so that one kind
// of token cannot stand in for another. One value has one text: nobody can make a
// second token out of one.
//
// The package never looks anything up, and never decides whether a token is good: a
// token that opens was made here, no more.
package seal

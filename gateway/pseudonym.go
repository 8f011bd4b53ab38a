package gateway

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash"

	"kith/proto"
)

// pseudonymPrefix begins every pseudonym. The tilde is in no kith_id, so that a
// pseudonym that comes back is not taken for one, and needs no escape in a URL.
const pseudonymPrefix = "k1~"

// newMAC makes the HMAC of pseudonyms. They are kept: a key costs two blocks.
func newMAC(key []byte) func() any {
	return func() any { return hmac.New(sha256.New, key) }
}

// appendPseudonym writes what the world is told instead of an identity: "k1~"
// and, in web-safe base64, HMAC-SHA256 over the client's number (4 bytes, big
// endian) and the identity, with the deployment's key. It cannot be undone, two
// clients' cannot be joined, and a client that is ended and made anew, whose
// number is another, begins with others.
func (g *Gateway) appendPseudonym(b []byte, client proto.ClientInfo, id proto.Identity) []byte {
	h := g.macs.Get().(hash.Hash)
	defer g.macs.Put(h)
	h.Reset()
	var room [proto.IdentityBytesMax + 4]byte
	m := binary.BigEndian.AppendUint32(room[:0], uint32(client.ID))
	h.Write(append(m, id...))
	var sum [sha256.Size]byte
	b = append(b, pseudonymPrefix...)
	return base64.RawURLEncoding.AppendEncode(b, h.Sum(sum[:0]))
}

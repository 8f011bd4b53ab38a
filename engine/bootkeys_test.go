package engine_test

import (
	"bytes"
	"crypto/sha256"
	"strings"
	"testing"

	"kith/engine"
	"kith/proto"
)

// TestKeysAreAsConfigured: what the configuration says of a key holds from the next
// start on, also where the log has it otherwise; one that it revokes opens nothing,
// whoever made it, and stays so.
func TestKeysAreAsConfigured(t *testing.T) {
	dir := t.TempDir()
	boot := func(keys ...engine.BootKey) func(*engine.Config) {
		return func(c *engine.Config) { c.Boot = keys }
	}
	revoked := func(keys ...string) func(*engine.Config) {
		return func(c *engine.Config) {
			for _, k := range keys {
				c.RevokedKeys = append(c.RevokedKeys, sha256.Sum256([]byte(k)))
			}
		}
	}
	sum := sha256.Sum256([]byte("key"))
	opens := func(n *engine.Node, key string, role proto.Role, client proto.ClientName) {
		t.Helper()
		if who, ok := n.Authenticate(key); ok != (role != "") || who.Role != role || who.Client != client {
			t.Errorf("the key %q opens %v %q of %q, want %q of %q", key[:3], ok, who.Role, who.Client, role, client)
		}
	}
	stop := func(n *engine.Node) {
		t.Helper()
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	n := testNode(t, dir)
	opens(n, "key", proto.RoleClient, "acme")
	made, err := n.CreateKey(t.Context(), "acme", proto.RoleClient, "")
	if err != nil {
		t.Fatal(err)
	}
	admin, err := n.CreateKey(t.Context(), "", proto.RoleAdmin, "")
	if err != nil {
		t.Fatal(err)
	}
	stop(n)

	n = testNode(t, dir, boot(engine.BootKey{Client: "acme", Role: proto.RoleReport, SHA256: sum}))
	opens(n, "key", proto.RoleReport, "acme")
	if text := exportedKeys(t, n, "acme"); strings.Count(text, `"kind":"key"`) != 2 || strings.Count(text, `"role":"report"`) != 1 {
		t.Errorf("the client's keys are told as\n%s", text)
	}
	stop(n)
	n = testNode(t, dir, boot(engine.BootKey{Client: "beta", Role: proto.RoleClient, SHA256: sum}))
	opens(n, "key", proto.RoleClient, "beta")
	if text := exportedKeys(t, n, "acme"); strings.Count(text, `"kind":"key"`) != 1 {
		t.Errorf("with the key another client's, the client's keys are told as\n%s", text)
	}
	stop(n)

	n = testNode(t, dir, boot(), revoked("key", made, admin, "never was"))
	for _, key := range []string{"key", made, admin, "never was"} {
		opens(n, key, "", "")
	}
	stop(n)
	n = testNode(t, dir, boot())
	for _, key := range []string{"key", made, admin} {
		opens(n, key, "", "")
	}
	stop(n)
	// Another node of the cluster may have it in its file still, as any kind of key.
	seq := uint64(0)
	for _, old := range []func(*engine.Config){
		boot(engine.BootKey{Client: "acme", Role: proto.RoleClient, SHA256: sum}),
		func(c *engine.Config) { c.AdminKeys = [][32]byte{sum, sha256.Sum256([]byte("never was"))} },
		revoked("key"),
	} {
		n = testNode(t, dir, boot(), old)
		opens(n, "key", "", "")
		opens(n, "never was", "", "")
		if seq = max(seq, n.Controls()); n.Controls() != seq {
			t.Errorf("%d control records, there were %d", n.Controls(), seq)
		}
		stop(n)
	}
}

// A node lets nobody in by a key that its own configuration revokes, whatever records
// come: those of a node of an earlier build make it anew.
func TestRevokedKeysStayOut(t *testing.T) {
	n := testNode(t, t.TempDir(), func(c *engine.Config) { c.Boot, c.RevokedKeys = nil, [][32]byte{sha256.Sum256([]byte("key"))} })
	if err := n.MakeKeyAnew(t.Context(), sha256.Sum256([]byte("key"))); err != nil {
		t.Fatal(err)
	}
	if who, ok := n.Authenticate("key"); ok {
		t.Errorf("it opens as %+v", who)
	}
	closeNode(t, n)
}

// exportedKeys are the lines about keys of a client's export.
func exportedKeys(t *testing.T, n *engine.Node, name proto.ClientName) string {
	t.Helper()
	c, ok := n.Client(name)
	if !ok {
		t.Fatalf("there is no client %s", name)
	}
	var all bytes.Buffer
	if err := n.ExportClient(t.Context(), c, &all); err != nil {
		t.Fatal(err)
	}
	var keys strings.Builder
	for line := range strings.Lines(all.String()) {
		if strings.Contains(line, `"kind":"key"`) {
			keys.WriteString(line)
		}
	}
	return keys.String()
}

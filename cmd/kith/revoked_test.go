package main

import (
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"testing"

	"kith/internal/config"
)

// A key that kith.yaml revokes is no key there, whatever it was for.
func TestRevokedKeys(t *testing.T) {
	gone, kept := sha256.Sum256([]byte("gone")), sha256.Sum256([]byte("kept"))
	c := config.Default()
	c.Keys = []config.Key{{SHA256: hex.EncodeToString(gone[:]), Role: "admin", Revoked: true}}
	if c.NeedKeys() == nil {
		t.Error("a revoked key is enough to start")
	}
	c.Keys = append(c.Keys, config.Key{SHA256: hex.EncodeToString(kept[:]), Role: "admin"})
	if err := c.Validate(); err != nil || c.NeedKeys() != nil {
		t.Fatal(err, c.NeedKeys())
	}
	ec, err := engineConfig(c, slog.New(slog.DiscardHandler))
	if err != nil || len(ec.AdminKeys) != 1 || ec.AdminKeys[0] != kept || len(ec.RevokedKeys) != 1 || ec.RevokedKeys[0] != gone || len(ec.Boot) != 0 {
		t.Errorf("%v: admin %x, revoked %x, others %v", err, ec.AdminKeys, ec.RevokedKeys, ec.Boot)
	}
}

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"kith/internal/config"
)

// TestFlagsWinOverTheFile: what flags change need not be right in the file, and what is
// wrong is told where it stands.
func TestFlagsWinOverTheFile(t *testing.T) {
	keys := "keys: [{sha256: " + config.HashKey("k") + ", role: admin}]\n"
	const certs = "secret_file: s\ncluster: {ca: ca, cert: c, key: k, join: ['10.0.0.1:7946']}\n"
	for _, tt := range []struct {
		file, flags string
		want        string // the error, "" if there is none
		usage       bool
	}{
		{file: "service: 127.0.0.1:8080\n", flags: "--public 127.0.0.1:9090"},
		{file: "service: 127.0.0.1:8080\n", want: "kith.yaml:2:10: service: "},
		{file: certs, flags: "--name n1 --cluster 10.0.0.1:7946"},
		{file: certs, flags: "--name n1", want: "kith.yaml:3:10: cluster.listen: "},
		{file: "cluster: {listen: 127.0.0.1:7946}\n", flags: "--dev --join 127.0.0.1:7946"},
		{file: "secret_file: s\ncluster: {ca: ca, cert: c, key: k, listen: 0.0.0.0:7946, join: ['10.0.0.1:7946']}\n", flags: "--advertise 10.0.0.1:7946"},
		{file: "cluster: {listen: 127.0.0.1:7946, join: ['127.0.0.1:7946']}\n", flags: "--dev"},
		{file: "cluster: {listen: 127.0.0.1:7946, join: ['127.0.0.1:7946']}\n", want: "secret_file: "},
		{file: "lanes: 99\nservice: 127.0.0.1:8080\n", flags: "--lanes 2", want: "kith.yaml:3:10: service: "},
		{file: "lanes: 99\n", flags: "--lanes 98", want: "lanes: use 1", usage: true},
		{file: "lanes: 99\n", flags: "--public nowhere", want: "public: write", usage: true},
		{file: certs, flags: "--cluster 10.0.0.1:7946 --join 10.0.0.1:7946,nowhere", want: "cluster.join[1]: ", usage: true},
		{file: "public: 0.0.0.0:8080\n", flags: "--dev", want: "public: --dev", usage: true},
		{file: "publik: 0.0.0.0:8080\n", flags: "--public 127.0.0.1:8080", want: "kith.yaml:2:1: "},
	} {
		path := filepath.Join(t.TempDir(), "kith.yaml")
		if err := os.WriteFile(path, []byte(keys+tt.file), 0o600); err != nil {
			t.Fatal(err)
		}
		var f serveFlags
		cmd := &cobra.Command{}
		f.define(cmd)
		if err := cmd.ParseFlags(append(strings.Fields(tt.flags), "--config="+path)); err != nil {
			t.Fatal(err)
		}
		_, err := f.load(cmd)
		var u usageError
		text := ""
		if err != nil {
			text = strings.TrimPrefix(message(err), filepath.Dir(path)+"/")
		}
		if (err == nil) != (tt.want == "") || !strings.HasPrefix(text, tt.want) || errors.As(err, &u) != tt.usage {
			t.Errorf("%q with %q: %v, want %q, of usage %t", tt.file, tt.flags, err, tt.want, tt.usage)
		}
	}
}

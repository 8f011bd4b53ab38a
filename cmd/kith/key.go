package main

import (
	"crypto/rand"
	"net/http"

	"github.com/spf13/cobra"

	"kith/internal/config"
	"kith/proto"
)

func newKeyCommand(c *connection) *cobra.Command {
	cmd := asGroup(&cobra.Command{
		Use:     "key",
		Short:   "Service keys",
		Example: "  kith key create --client acme --key dev-admin-key",
	})
	cmd.AddCommand(newKeyCreateCommand(c))
	return cmd
}

type keyRequest struct {
	Client string `json:"client,omitempty"`
	Role   string `json:"role"`
	Space  string `json:"space,omitempty"`
}

type keyAnswer struct {
	Key    string `json:"key"`
	Role   string `json:"role"`
	Client string `json:"client,omitempty"`
	SHA256 string `json:"sha256,omitempty"` // with --offline
}

func newKeyCreateCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a key, shown once",
		Long: `Makes a service key, and the client if it is new. The key is shown once: the node
keeps only its hash.

The first admin key is made without a node: --offline prints a key and the lines
for kith.yaml that let it in.`,
		Example: `  kith key create --role admin --offline
  kith key create --client acme --key ADMIN-KEY
  kith key create --client acme --role report --key ADMIN-KEY`,
		Args: noArgs,
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	in := keyRequest{}
	cmd.Flags().StringVar(&in.Role, "role", "client", "client, report (counts only) or admin")
	cmd.Flags().StringVar(&in.Space, "space", "", "`NAME` of the space whose clients share links; default: a space of its own")
	offline := cmd.Flags().Bool("offline", false, "ask no node: print the lines for kith.yaml")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		in.Client = c.clientName()
		if err := checkKeyRequest(in); err != nil {
			return err
		}
		if *offline && in.Space != "" {
			return usagef("kith.yaml says nothing of spaces, and a client's cannot be changed later: make an admin key with --offline, start the node, and make this key with --key ADMIN-KEY instead of --offline")
		}
		var out keyAnswer
		if *offline {
			out = keyAnswer{Key: "kith_" + rand.Text(), Role: in.Role, Client: in.Client}
			out.SHA256 = config.HashKey(out.Key)
		} else if err := createKey(cmd, c, in, &out); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, out)
		}
		printKey(cmd, out)
		return nil
	}
	return cmd
}

func checkKeyRequest(in keyRequest) error {
	role, err := proto.ParseRole(in.Role)
	if err != nil {
		return usageError{err}
	}
	switch {
	case role == proto.RoleAdmin && in.Client != "":
		return usagef("an admin key belongs to no client: leave --client out")
	case role != proto.RoleAdmin && in.Client == "":
		return usagef("name the client that the key is for: --client NAME")
	case role == proto.RoleAdmin && in.Space != "":
		return usagef("an admin key belongs to no client, so to no space: leave --space out")
	case role == proto.RoleAdmin:
		return nil
	}
	if _, err := proto.ParseClientName(in.Client); err != nil {
		return usageError{err}
	}
	return nil
}

func createKey(cmd *cobra.Command, c *connection, in keyRequest, out *keyAnswer) error {
	// The client is in the body: it may not exist yet.
	anonymous := connection{service: c.service, key: c.key}
	anonymous.getenv = func(name string) string {
		if name == "KITH_CLIENT" {
			return ""
		}
		return c.getenv(name)
	}
	*out = keyAnswer{Role: in.Role, Client: in.Client}
	return anonymous.call(cmd.Context(), http.MethodPost, "/v1/keys", nil, in, out)
}

func printKey(cmd *cobra.Command, k keyAnswer) {
	printf(cmd, "%s\n", k.Key)
	if k.SHA256 == "" {
		cmd.PrintErrln("This is the only time that the key is shown.")
		return
	}
	printf(cmd, "\n# for kith.yaml, in the place of its line keys: []\nkeys:\n  - sha256: %s\n    role: %s\n", k.SHA256, k.Role)
	if k.Client != "" {
		printf(cmd, "    client: %s\n", k.Client)
	}
	cmd.PrintErrln("Keep the key itself safe: it is not stored anywhere.")
}

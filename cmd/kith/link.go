package main

import (
	"net/http"

	"github.com/spf13/cobra"

	"kith/proto"
)

type linkRequest struct {
	A          string  `json:"a"`
	B          string  `json:"b"`
	Method     string  `json:"method"`
	Confidence float64 `json:"confidence"`
}

// check refuses what no node takes; sure says that a confidence was passed.
func (r *linkRequest) check(sure bool) error {
	for _, id := range []string{r.A, r.B} {
		// What names nobody is well-formed, and to be told why it is not linked.
		if err := checkIdentities(id); err != nil && checkIdentities(id+"x") != nil {
			return err
		}
	}
	switch {
	case r.Method == "inferred" && !sure:
		return usagef("an inferred link needs its confidence: --confidence 0.9")
	case r.Method == "inferred" && !(r.Confidence > 0 && r.Confidence <= 1):
		return usagef("--confidence is %v: use a number above 0, of at most 1", r.Confidence)
	case r.Method != "inferred" && r.Confidence != 1:
		return usagef("a deterministic link has confidence 1: leave --confidence out, or pass --method inferred")
	}
	return nil
}

func newLinkCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "link A B",
		Short: "Say that two identities are the same person",
		Long: `Links two identities. The answer is final: linked, or the reason why not, such as
opted_out, blocked, cap or confidence; docs/api.md lists them all. Both are exit code 0.`,
		Example: `  kith link browser:3f0c9a account:77 --key demo-key
  kith link browser:3f0c9a browser:b71e2d --method inferred --confidence 0.9 --key demo-key`,
		Args: exactly(2, "two identities"),
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	in := linkRequest{}
	method := choiceFlag(cmd, "method", "deterministic", "deterministic (both were seen together, as at a log-in) or inferred", "deterministic", "inferred")
	cmd.Flags().Float64Var(&in.Confidence, "confidence", 1, "of an inferred link, above 0 to 1")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		in.A, in.B, in.Method = args[0], args[1], *method
		if err := in.check(cmd.Flags().Changed("confidence")); err != nil {
			return err
		}
		var out proto.Linked
		if err := c.call(cmd.Context(), http.MethodPost, "/v1/links", nil, in, &out); err != nil {
			return err
		}
		switch {
		case *asJSON:
			return printJSON(cmd, out)
		case out.Linked:
			printf(cmd, "linked\n")
		default:
			printf(cmd, "not linked: %s\n", out.Reason)
		}
		return nil
	}
	return cmd
}

func newUnlinkCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "unlink A [B]",
		Short: "Take a link back",
		Long: `Removes the link between A and B, whoever made it: if nothing else joins them they are
two users again. Without B it withdraws all links of A that this client vouches for.`,
		Example: "  kith unlink browser:3f0c9a account:77 --key demo-key\n  kith unlink browser:3f0c9a --key demo-key --json",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 && len(args) != 2 {
				return usagef("%s takes one or two identities; got %d arguments", cmd.CommandPath(), len(args))
			}
			return nil
		},
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkIdentities(args...); err != nil {
			return err
		}
		in := map[string]string{"a": args[0]}
		if len(args) == 2 {
			in["b"] = args[1]
		}
		var out struct {
			Removed  bool   `json:"removed"`
			Position string `json:"position"`
		}
		if err := c.call(cmd.Context(), http.MethodDelete, "/v1/links", nil, in, &out); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd, out)
		}
		printf(cmd, "removed, at position %s\n", out.Position)
		return nil
	}
	return cmd
}

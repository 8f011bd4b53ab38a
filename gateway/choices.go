package gateway

import (
	"bytes"
	"context"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"kith/proto"
)

// The traits that people may declare of themselves, and what they may say.
const (
	traitAge    = "age_band"
	traitGender = "gender"

	ageChild = "under-13" // nothing is kept of it
)

var (
	ageBands = []string{ageChild, "13-17", "18-24", "25-34", "35-44", "45-54", "55-64", "65+"}
	genders  = []string{"female", "male", "other"}
)

// declaration is what somebody says of themselves to one client. A field that
// is nil is left as it is, "" takes it back.
type declaration struct {
	Client  string   `json:"client"`
	AgeBand *string  `json:"age_band"`
	Gender  *string  `json:"gender"`
	Remove  []string `json:"remove"` // traits, whoever set them
}

// child reports whether somebody is said to be too young to be asked.
func (x *declaration) child() bool { return x.AgeBand != nil && *x.AgeBand == ageChild }

// empty reports whether nothing is said or taken back.
func (x *declaration) empty() bool { return x.AgeBand == nil && x.Gender == nil && len(x.Remove) == 0 }

// declared is the answer to a declaration. Final and receipt are there if it was
// a child's, who is opted out then.
type declared struct {
	OptedOut bool           `json:"opted_out"`
	Position string         `json:"position,omitempty"`
	Final    *bool          `json:"final,omitempty"`
	Receipt  *proto.Receipt `json:"receipt,omitempty"`
}

// choicesBytesMax bounds a declaration.
const choicesBytesMax = 64 << 10

// postChoices takes a declaration, as JSON or as a form.
func (g *Gateway) postChoices(w http.ResponseWriter, r *http.Request) error {
	w.Header()["Cache-Control"] = noStore
	body, err := g.readPublic(w, r, nil, choicesBytesMax)
	if err != nil {
		return err
	}
	x, token, err := readDeclaration(r, body)
	if err != nil {
		return err
	}
	v := g.visitOf(r)
	name := proto.ClientName(x.Client)
	if !g.fromPage(r, &v, token) && !jsonAlone(r) && !g.listedOrigin(r, name) {
		return errCrossSite
	}
	g.allowOrigin(w, r, name)
	answer, err := g.declare(w, r, &v, x)
	if err != nil {
		return err
	}
	return writeValue(w, http.StatusOK, answer)
}

// jsonAlone reports whether a request says of itself that it is JSON and from no
// page: no page of another site can make a browser send that unasked.
func jsonAlone(r *http.Request) bool {
	return r.Header.Get("Sec-Fetch-Site") == "" && r.Header.Get("Origin") == "" && r.Header.Get("Content-Type") == "application/json"
}

// listedOrigin reports whether the client lists the request's origin.
func (g *Gateway) listedOrigin(r *http.Request, client proto.ClientName) bool {
	origin := r.Header.Get("Origin")
	return origin != "" && slices.Contains(g.c.Origins[client], origin)
}

// readDeclaration reads a form or JSON; token is a form's.
func readDeclaration(r *http.Request, body []byte) (x declaration, token string, err error) {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if text := bytes.TrimSpace(body); kind == formType && (len(text) == 0 || text[0] != '{') {
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return x, "", proto.Errorf(proto.CodeInvalid, "the form has a broken %% escape")
		}
		return declarationOf(form), form.Get("token"), nil
	}
	switch contentType(r) {
	case "application/json", "text/plain":
		err = decodeStrict(body, &x)
		return x, "", err
	}
	return x, "", proto.Errorf(proto.CodeMediaType, "content type %q is not taken: use application/json or a form", clip(kind))
}

// declarationOf reads a form. A field that is not in it is left as it is.
func declarationOf(form url.Values) declaration {
	x := declaration{Client: form.Get("client"), Remove: form["remove"]}
	for name, field := range map[string]**string{traitAge: &x.AgeBand, traitGender: &x.Gender} {
		if form.Has(name) {
			v := form.Get(name)
			*field = &v
		}
	}
	return x
}

// declare keeps what somebody says of themselves as traits of their browser, or
// opts them out everywhere if they say that they are a child.
func (g *Gateway) declare(w http.ResponseWriter, r *http.Request, v *visit, x declaration) (declared, error) {
	if x.child() {
		g.setOptOut(w, v, true)
		v.cookie = true
		v.heedBrowser()
		cut, err := g.cutOwn(w, r, v, true)
		return declared{OptedOut: true, Final: cut.Final, Receipt: cut.Receipt}, err
	}
	if _, all := g.proofsMissing(v); all {
		return declared{}, errUnprovenBrowser
	}
	client, err := g.clientNamed(x.Client)
	if err != nil {
		return declared{}, err
	}
	set, err := x.traits()
	if err != nil {
		return declared{}, err
	}
	if !slices.ContainsFunc(set, sets) {
		return g.takeBack(r.Context(), client, v, set)
	}
	// Who fills in a form consents to what it says; who objects, objects.
	if v.signal == "" {
		v.signal = v.signals.against(g.policies.client(client.Name))
	}
	g.judgeIdentity(v, client)
	if v.signal != "" {
		w.Header()[withheldHeader] = []string{v.signal}
		return declared{}, errWithheld(v.signal)
	}
	browser := v.browser
	if browser == "" {
		browser = newBrowser()
	}
	pos, err := g.setTraits(r.Context(), client, []proto.Identity{browser}, set)
	if err != nil {
		return declared{}, err
	}
	g.keep(w, *v, browser)
	v.browser, v.several = browser, nil
	v.proofs = append(v.proofs, g.browserProof(browser)) // it is on its way
	return declared{Position: pos.String()}, nil
}

// takeBack removes traits of all that the browser carries and may change, whatever speaks
// against storing any.
func (g *Gateway) takeBack(ctx context.Context, client proto.ClientInfo, v *visit, set []proto.Prop) (declared, error) {
	browsers := g.own(v, v.toCut())
	if len(browsers) == 0 {
		return declared{OptedOut: v.signal != ""}, nil
	}
	pos, err := g.setTraits(ctx, client, browsers, set)
	if err != nil {
		return declared{}, err
	}
	return declared{OptedOut: v.signal != "", Position: pos.String()}, nil
}

// traits are what x sets; a text that is empty removes one.
func (x *declaration) traits() ([]proto.Prop, error) {
	var set []proto.Prop
	for _, f := range []struct {
		name  string
		value *string
		may   []string
	}{{traitAge, x.AgeBand, ageBands}, {traitGender, x.Gender, genders}} {
		switch {
		case f.value == nil:
			continue
		case *f.value != "" && !slices.Contains(f.may, *f.value):
			return nil, proto.Errorf(proto.CodeInvalid, `%s is %q: use one of %s, or "" to take it back`, f.name, clip(*f.value), strings.Join(f.may, ", "))
		}
		set = append(set, proto.Prop{Key: f.name, Value: proto.TextOf(*f.value)})
	}
	for _, name := range x.Remove {
		if slices.ContainsFunc(set, func(p proto.Prop) bool { return p.Key == name }) {
			continue
		}
		if name == "" || len(name) > proto.PropKeyBytesMax || !legible(name) || proto.ReservedTrait(name) {
			return nil, proto.Errorf(proto.CodeInvalid, "remove names %q: use the names of traits that GET /v1/me shows; those that begin with import. go with an erasure only", clip(name))
		}
		if len(set) == proto.EventPropsMax { // each name is compared with all before it
			return nil, proto.Errorf(proto.CodeTooLarge, "over %d traits are set or removed: send at most %d at once", proto.EventPropsMax, proto.EventPropsMax)
		}
		set = append(set, proto.Prop{Key: name, Value: proto.TextOf("")})
	}
	if len(set) == 0 {
		return nil, proto.Errorf(proto.CodeInvalid, "nothing is declared: send age_band, gender or remove")
	}
	removalsFirst(set)
	return set, nil
}

// setTraits makes traits of browsers durable.
func (g *Gateway) setTraits(ctx context.Context, client proto.ClientInfo, browsers []proto.Identity, set []proto.Prop) (proto.Position, error) {
	p := g.newPost()
	defer g.freePost(p)
	p.client, p.known = client, true
	p.events = len(browsers)
	for i, id := range browsers {
		p.addTraits(&proto.Traits{Client: client.ID, Space: client.Space, Identity: id, Received: p.now, Set: set}, i)
	}
	pos, err := g.submit(ctx, true, p)
	if err == nil && len(p.refused) > 0 {
		err = &proto.Error{Code: p.refused[0].code, Message: p.refused[0].message}
	}
	return pos, err
}

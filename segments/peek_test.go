package segments
import "testing"
func TestPeek(t *testing.T){
 for _,s:=range []string{`count(event.section == "auto", "30d") >= 3 && !member("owners")`,`event.name == "x"`,`count(true)`,`cont(true) > 1`,`count(evnt.name == "x") > 1`,`now - last(true) < "7d"`,
 `1 < count(event.price > 3.5)`, `!!!member("x") || (member("y") || days(event.x.startsWith("a"), "1w2d") == 3)`, `sum(event.x) > 1`, "true &&\n  coun(true) > 1", `trait("x") in ["a", 3, true]`, `trait("X").lowerAscii() == "a"`, `count(event.a in []) > 1`, `count(true) > 1 +`, `a ? b : c`, `last(true) > "7d"`, `count(event.props["a b"].matches("x(")) > 1`, `count(true) && true`, `last(true) > timestamp("2026-01-02T00:00:00Z")`, `"30d" == event.x`, `[1,2].all(x, x>1)`, `count(event.x) > 1`, `count(has(event.x) && !has(event.y)) > 1`, `-count(true) > 1`, `count(true, "30x") > 1`, `member("a") == true`, ``} {
  r,err:=Compile(s)
  if err!=nil { t.Log(s," => ",err) } else { t.Log(s, " OK ", r) }
 }
}

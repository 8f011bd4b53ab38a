// Reads exported sets with CRoaring: a 32-bit set with its C interface, with
// "64" the set of all lanes. Prints how many members there are, then each.
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <roaring/roaring.h>
#include <roaring/roaring64map.hh>

// Newer versions have namespaces, older ones do not.
namespace roaring { namespace api {} }
using namespace roaring;
using namespace roaring::api;

static bool print32(uint32_t v, void *) {
  std::printf("%" PRIu32 "\n", v);
  return true;
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  std::ifstream in(argv[2], std::ios::binary);
  std::string b((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  if (std::strcmp(argv[1], "64") == 0) {
    Roaring64Map set = Roaring64Map::read(b.data(), true);
    std::printf("%" PRIu64 "\n", (uint64_t)set.cardinality());
    for (uint64_t v : set) std::printf("%" PRIu64 "\n", v);
    return 0;
  }
  roaring_bitmap_t *set = roaring_bitmap_portable_deserialize_safe(b.data(), b.size());
  if (set == nullptr || roaring_bitmap_portable_size_in_bytes(set) != b.size()) return 1;
  std::printf("%" PRIu64 "\n", roaring_bitmap_get_cardinality(set));
  roaring_iterate(set, print32, nullptr);
  roaring_bitmap_free(set);
  return 0;
}

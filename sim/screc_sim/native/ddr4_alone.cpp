// What the memory can give: the reads of a file, its queue always full.
#include <cstdio>

#include "job.h"

int main(int argc, char** argv) {
    try {
        if (argc != 2) throw std::runtime_error("usage: ddr4_alone JOB");
        const Job job(argv[1]);
        const Ddr4Timing timing = job.ddr4();
        const auto addresses = read_file<uint64_t>(job.text("addresses"));
        Ddr4 ddr4(timing);
        std::vector<Ddr4::Done> done;
        uint64_t first = 0, last = 0;
        size_t next = 0;
        while (done.size() < addresses.size()) {
            while (!ddr4.full() && next < addresses.size()) {
                ddr4.push(next, addresses[next]);
                ++next;
            }
            // the queue is no longer full: what is left would look slower than it is
            if (next == addresses.size() && !last) last = done.empty() ? 1 : done.size();
            ddr4.tick(done);
        }
        if (last < 2) throw std::runtime_error("too few addresses to fill the queue");
        first = done.front().clock;
        const double ps = static_cast<double>(done[last - 1].clock - first) * timing.tck_ps;
        const double bytes = static_cast<double>(last - 1) * Ddr4::ACCESS_BYTES;
        std::printf("{\"reads\": %zu, \"activates\": %llu, \"gb_per_s\": %.6f}\n", done.size(),
                    static_cast<unsigned long long>(ddr4.activates()), bytes * 1000 / ps);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}

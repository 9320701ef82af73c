// Runs a TT reconstructor: requests from a file, slices of rows to a file.
#include "bench.h"

namespace {

class Reconstruct : Bench {
public:
    explicit Reconstruct(const Job& job)
        : Bench(job), requests_(read_file<uint32_t>(job.text("requests"))),
          patience_(job.number("patience")), rows_("rows", job.text("rows")) {}

    void run() {
        reset();
        load();
        const uint64_t loaded = cycle_;
        if (job_.number("wait") && !wait_until_idle()) return;
        pin_cycles_ = cycle_ - loaded;
        reconstruct();
    }

    void report() const {
        std::printf("{\"finished\": %s, \"requests\": %zu, \"first_request\": %" PRIu64
                    ", \"last_slice\": %" PRIu64 ", \"slices\": %" PRIu64 ", \"cycles_run\": %" PRIu64
                    ", \"pin_cycles\": %" PRIu64 ", \"range_errors\": %" PRIu64 ", \"hits\": %" PRIu64
                    ", \"reconstructed\": %" PRIu64 ", \"violations\": %" PRIu64
                    ", \"violation\": \"%s\"}\n",
                    finished_ ? "true" : "false", taken_, first_request_, rows_.last_cycle(),
                    rows_.count(), cycle_, pin_cycles_,
                    static_cast<uint64_t>(model_.PORT_range_errors),
                    static_cast<uint64_t>(model_.PORT_hits),
                    static_cast<uint64_t>(model_.PORT_reconstructed), checks_.violations,
                    checks_.first.c_str());
    }

private:
    bool wait_until_idle() {
        for (uint64_t waited = 0; waited < patience_; ++waited) {
            model_.eval();
            const bool idle = model_.PORT_idle;
            if (model_.PORT_rows_valid) checks_.fail(cycle_, "a row that nobody asked for");
            edge();
            if (idle) return true;
        }
        return false;
    }

    void reconstruct() {
        const size_t count = requests_.size() / REQUEST_WORDS;
        const double request_gap = job_.real("request_gap"), row_stall = job_.real("row_stall");
        uint64_t progress = cycle_, idle = 0;
        while (idle < SETTLE_CYCLES) {
            // inputs of this cycle
            if (!offered_ && taken_ < count && !random_.chance(request_gap)) {
                put(model_.PORT_requests_payload, &requests_[taken_ * REQUEST_WORDS]);
                offered_ = true;
            }
            model_.PORT_requests_valid = offered_;
            model_.PORT_rows_ready = !random_.chance(row_stall);
            model_.eval();
            // transfers of this cycle
            bool moved = false;
            if (offered_ && model_.PORT_requests_ready) {
                if (taken_++ == 0) first_request_ = cycle_;
                offered_ = false;
                moved = true;
            }
            moved |= rows_.take(model_.PORT_rows_valid, model_.PORT_rows_ready,
                                model_.PORT_rows_payload, cycle_, checks_);
            const bool quiet = taken_ == count && model_.PORT_idle && !model_.PORT_rows_valid;
            if (moved && idle) checks_.fail(cycle_, "something moved after idle was 1");
            idle = quiet && !moved ? idle + 1 : 0;
            if (moved) progress = cycle_;
            edge();
            if (cycle_ - progress > patience_ + idle) return;
        }
        finished_ = true;
    }

    const std::vector<uint32_t> requests_;
    const uint64_t patience_;
    Sink<ROW_WORDS> rows_;
    size_t taken_ = 0;
    bool offered_ = false, finished_ = false;
    uint64_t first_request_ = 0, pin_cycles_ = 0;
};

}  // namespace

int main(int argc, char** argv) { return bench_main<Reconstruct>(argc, argv); }

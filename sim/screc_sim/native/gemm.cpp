// Runs a compute core: dense words and words of bags from files, results to a file. Notes which
// operation of the layer program the array and the interaction's units run.
#include <array>

#include "bench.h"
#include "memory_port.h"

namespace {

constexpr uint64_t BEAT_BYTES = 64, BOUNDARY_BYTES = 4096;

class Gemm : Bench {
public:
    explicit Gemm(const Job& job)
        : Bench(job), dense_(read_file<uint32_t>(job.text("dense"))),
          words_(read_file<uint32_t>(job.text("words"))), count_(job.number("count")),
          words_each_(job.number("words_each")), patience_(job.number("patience")),
          results_("results", job.text("results")), array_(job.number("operations")), pairs_(1),
          image_(read_file<uint8_t>(job.text("weights"))), base_(job.number("weight_base")),
          region_(job.number("memory")), ar_stall_(job.real("ar_stall")), r_gap_(job.real("r_gap")),
          memory_(1, BEAT_BYTES, job.number("latency_low"), job.number("latency_high"),
                  job.number("seed")) {}

    void run() {
        reset();
        load();
        compute();
    }

    void report() const {
        std::printf("{\"finished\": %s, \"results\": %" PRIu64 ", \"cycles_run\": %" PRIu64
                    ", \"loaded\": %" PRIu64 ", \"busy\": %" PRIu64 ", \"active\": %" PRIu64
                    ", \"waiting\": %" PRIu64 ", \"violations\": %" PRIu64 ", \"violation\": \"%s\"",
                    finished_ ? "true" : "false", results_.count(), cycle_, loaded_,
                    static_cast<uint64_t>(model_.PORT_busy),
                    static_cast<uint64_t>(model_.PORT_active),
                    static_cast<uint64_t>(model_.PORT_waiting), checks_.violations,
                    checks_.first.c_str());
        std::printf(", \"weight_beats\": %" PRIu64 ", \"weight_errors\": %" PRIu64, weight_beats_,
                    weight_errors_);
        print("starts", starts_);
        print("ends", ends_);
        print("array_cycles", array_.cycles);
        print("pair_cycles", pairs_.cycles);
        std::printf("}\n");
    }

private:
    // Operations of one unit, in the order of the program; sub-batches run them in turn.
    struct Unit {
        explicit Unit(size_t operations) : cycles(operations) {}
        void watch(bool start, uint64_t slot, bool active) {
            if (active) ++cycles[now];
            if (!start) return;  // it is active from the next cycle on
            now = next[slot];
            next[slot] = (now + 1) % cycles.size();
        }
        std::vector<uint64_t> cycles;
        std::array<size_t, SLOTS> next{};
        size_t now = 0;
    };

    static void print(const char* name, const std::vector<uint64_t>& values) {
        std::printf(", \"%s\": [", name);
        for (size_t i = 0; i < values.size(); ++i)
            std::printf("%s%" PRIu64, i ? ", " : "", values[i]);
        std::printf("]");
    }

    void compute() {
        const size_t dense_count = dense_.size() / DENSE_WORDS;
        const double dense_gap = job_.real("dense_gap"), word_gap = job_.real("word_gap");
        const double result_stall = job_.real("result_stall");
        loaded_ = cycle_;
        uint64_t progress = cycle_, idle = 0;
        bool offered_dense = false, offered_word = false;
        size_t taken_dense = 0, taken_words = 0;
        uint64_t completed = 0, released = 0;
        while (idle < SETTLE_CYCLES) {
            // inputs of this cycle
            if (!offered_dense && taken_dense < dense_count && !random_.chance(dense_gap)) {
                put(model_.PORT_dense_payload, &dense_[taken_dense * DENSE_WORDS]);
                offered_dense = true;
            }
            model_.PORT_dense_valid = offered_dense;
            // a sub-batch is complete the cycle after its last word, at once if it has none
            const bool complete = completed < count_ && completed < released + SLOTS &&
                                  taken_words == (completed + 1) * words_each_;
            completed += complete;
            model_.PORT_complete = complete;
            const size_t room = (released + SLOTS) * words_each_;
            if (!offered_word && taken_words < count_ * words_each_ && taken_words < room &&
                !random_.chance(word_gap)) {
                put(model_.PORT_words_payload, &words_[taken_words * FEATURE_WORDS]);
                offered_word = true;
            }
            model_.PORT_words_valid = offered_word;
            model_.PORT_results_ready = !random_.chance(result_stall);
            answer();
            model_.eval();
            // transfers of this cycle
            read();
            bool moved = complete;
            if (offered_dense && model_.PORT_dense_ready) {
                ++taken_dense;
                offered_dense = false;
                moved = true;
            }
            if (offered_word && model_.PORT_words_ready) {
                ++taken_words;
                offered_word = false;
                moved = true;
            }
            if (model_.PORT_release && released++ == completed)
                checks_.fail(cycle_, "a sub-batch was released that was not complete");
            if (results_.take(model_.PORT_results_valid, model_.PORT_results_ready,
                              model_.PORT_results_payload, cycle_, checks_)) {
                moved = true;
                if (results_.count() % ROWS == 1) starts_.push_back(cycle_);
                if (results_.count() % ROWS == 0) ends_.push_back(cycle_);
            }
            watch(moved);
            const bool quiet = results_.count() == count_ * ROWS && released == count_ &&
                               model_.PORT_idle && !model_.PORT_results_valid;
            if (moved && idle) checks_.fail(cycle_, "something moved after idle was 1");
            idle = quiet && !moved ? idle + 1 : 0;
            if (moved) progress = cycle_;
            edge();
            if (cycle_ - progress > patience_ + idle) return;
        }
        finished_ = true;
    }

#ifdef PORT_axi_arvalid
    // Weights that are streamed: what the memory does in this cycle ...
    void answer() {
        memory_.advance(cycle_);
        set(model_.PORT_weight_base, region_);
        model_.PORT_axi_arready = !random_.chance(ar_stall_);
        uint64_t address;
        const bool valid = memory_.available(0, cycle_, address) &&
                           !random_.chance(r_gap_);
        model_.PORT_axi_rvalid = valid;
        if (!valid) return;
        std::memcpy(&model_.PORT_axi_rdata, &image_[address - base_], BEAT_BYTES);
        model_.PORT_axi_rresp = 0;
        model_.PORT_axi_rlast = memory_.give(0);
        ++weight_beats_;
    }
    // ... and what it is asked for; returns whether anything moved.
    // ... and what it is asked for. What is read ahead need not be run, so it is no progress.
    void read() {
        weight_errors_ += model_.PORT_weight_error;
        if (!model_.PORT_axi_rready) checks_.fail(cycle_, "a beat of weights was not taken");
        if (!model_.PORT_axi_arvalid || !model_.PORT_axi_arready) return;
        const uint64_t address = model_.PORT_axi_araddr, beats = model_.PORT_axi_arlen + 1;
        const uint64_t end = address + beats * BEAT_BYTES;
        const bool inside = address >= base_ && end <= base_ + image_.size();
        if (!inside) checks_.fail(cycle_, "a read of weights outside of them");
        if (address / BOUNDARY_BYTES != (end - 1) / BOUNDARY_BYTES)
            checks_.fail(cycle_, "a burst of weights crosses 4 KiB");
        if (address % BEAT_BYTES || model_.PORT_axi_arsize != 6 || model_.PORT_axi_arburst != 1)
            checks_.fail(cycle_, "a burst of weights that is not one of whole beats");
        if (inside) memory_.take({address, beats}, 0, cycle_);
    }
#else
    void answer() {}
    void read() {}
#endif

    void watch(bool& moved) {
        const uint64_t schedule = static_cast<uint64_t>(model_.PORT_schedule);
        const auto field = [schedule](uint32_t low, uint32_t width) {
            return schedule >> low & ((uint64_t{1} << width) - 1);
        };
        const bool linear = field(AT_LINEAR, 1), dot = field(AT_PAIRS, 1);
        array_.watch(linear, field(AT_LINEAR_SLOT, SLOT_BITS), field(AT_LINEAR_ACTIVE, 1));
        pairs_.watch(dot, field(AT_PAIRS_SLOT, SLOT_BITS), field(AT_PAIRS_ACTIVE, 1));
        moved |= linear || dot;
    }

    const std::vector<uint32_t> dense_, words_;
    const uint64_t count_, words_each_, patience_;
    Sink<RESULT_WORDS> results_;
    std::vector<uint64_t> starts_, ends_;
    Unit array_, pairs_;
    const std::vector<uint8_t> image_;
    const uint64_t base_, region_;
    const double ar_stall_, r_gap_;
    FixedMemory memory_;
    uint64_t loaded_ = 0, weight_beats_ = 0, weight_errors_ = 0;
    bool finished_ = false;
};

}  // namespace

int main(int argc, char** argv) { return bench_main<Gemm>(argc, argv); }

// The C interface over the verilated core: AXI4-Lite accesses and AXI4-Stream beats in bulk calls.
//
// config.h, generated beside it, gives STREAM_BITS, WAVES, STATUS (its byte offset), BUSY (its mask) and BANKS(X) with
// X(memory, bank, array, bits); where TRACED, OPERANDS(X) with X(port) and NAME_LETTERS. Every output of the core comes from registers alone, so inputs set after an edge are
// seen by the next one and two evaluations a cycle suffice.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "Vtop.h"
#include "Vtop___024root.h"
#include "config.h"
#include "verilated.h"
#if WAVES
#include "verilated_vcd_c.h"
#endif

#define API extern "C" __attribute__((visibility("default")))

namespace {

constexpr size_t BEAT = STREAM_BITS / 8;
constexpr uint64_t DISPLAYED = 8;  // more beats than a stopped core shows
constexpr int POLL = 48;  // cycles between two reads of STATUS

enum Until : uint32_t { IDLE = 1, SENT = 2, RECEIVED = 4 };
enum Outcome : int32_t { NOT_YET = 0, REACHED = 1, NO_ANSWER = -1, REFUSED = -2 };

// A queue of beats that gives its memory back as it empties.
struct Beats {
    std::vector<uint8_t> bytes;
    size_t head = 0;

    size_t count() const { return (bytes.size() - head) / BEAT; }
    const uint8_t* front() const { return bytes.data() + head; }
    void put(const void* data, size_t beats) {
        const auto* from = static_cast<const uint8_t*>(data);
        bytes.insert(bytes.end(), from, from + beats * BEAT);
    }
    void drop(size_t beats) {
        head += beats * BEAT;
        if (head == bytes.size()) {
            bytes.clear();
            head = 0;
        } else if (head > (1 << 20) && head * 2 > bytes.size()) {
            bytes.erase(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(head));
            head = 0;
        }
    }
};

// Says "wait" with a probability of threshold / 2**32.
struct Stall {
    uint64_t threshold = 0;
    uint32_t state = 1;

    bool operator()() {
        if (!threshold) return false;
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        return state < threshold;
    }
};

struct Engine {
    VerilatedContext context;
    Vtop top{&context};
    Beats in, out;
    std::vector<uint8_t> last;  // TLAST of the beats in `out`, from last_head on
    size_t last_head = 0;
    uint64_t room = 0;  // beats the host is ready to take
    uint64_t cycles = 0, beats_in = 0, beats_out = 0;
    Stall stall_in, stall_out, stall_bus;
#if WAVES
    std::unique_ptr<VerilatedVcdC> trace;
    uint64_t time = 0;
    void dump() {
        if (trace) {
            name_operands();
            trace->dump(time);
        }
        time += 5;
    }
#else
    void dump() {}
#endif

    std::map<uint32_t, std::string> names;  // of what lies at a place
#if TRACED
    // Give the waveform the names of the operands, where they are others than before.
#define X(operand) uint32_t operand##_shown = ~0u;
    OPERANDS(X)
#undef X
    void name_operands() {
#define X(operand)                                         \
    if (top.operand != operand##_shown) {                  \
        operand##_shown = top.operand;                     \
        set_text(&top.operand##_name, called(top.operand)); \
    }
        OPERANDS(X)
#undef X
    }
    // The name given to what lies there; else its memory and word; nothing where there is no operand.
    std::string called(uint32_t place) const {
        const auto found = names.find(place);
        if (found != names.end()) return found->second;
        static const char* const memories[] = {MEMORIES};
        const uint32_t memory = place >> BASE_BITS, base = place & ((1u << BASE_BITS) - 1);
        if (memory >= sizeof memories / sizeof *memories) return "";
        char text[NAME_LETTERS];
        std::snprintf(text, sizeof text, "%s[0x%x]", memories[memory], base);
        return text;
    }
    // ASCII as viewers read it: the last letter in the lowest byte.
    static void set_text(void* port, const std::string& text) {
        auto* bytes = static_cast<uint8_t*>(port);
        std::memset(bytes, 0, NAME_LETTERS);
        for (size_t i = 0; i < text.size() && i < NAME_LETTERS; i++) bytes[i] = text[text.size() - 1 - i];
    }
    void forget_shown() {
#define X(operand) operand##_shown = ~0u;
        OPERANDS(X)
#undef X
    }
#else
    void name_operands() {}
    void forget_shown() {}
#endif

    Engine() {
        context.traceEverOn(WAVES);
        top.aclk = 0;
        top.aresetn = 0;
        top.eval();
    }
    ~Engine() {
#if WAVES
        if (trace) trace->close();
#endif
        top.final();
    }

    void edge() {
        top.aclk = 1;
        top.eval();
        dump();
        top.aclk = 0;
        top.eval();
        dump();
        cycles++;
    }

    // Offer the next beat. A beat once offered stays until it is taken.
    void offer() {
        if (in.count() && !stall_in()) {
            std::memcpy(&top.s_axis_tdata, in.front(), BEAT);
            top.s_axis_tvalid = 1;
        } else {
            if (stall_in.threshold) std::memset(&top.s_axis_tdata, 0x5A, BEAT);
            top.s_axis_tvalid = 0;
        }
    }

    void tick() {
        const bool sent = top.s_axis_tvalid && top.s_axis_tready;
        const bool taken = top.m_axis_tvalid && top.m_axis_tready;
        if (taken) {
            out.put(&top.m_axis_tdata, 1);
            last.push_back(top.m_axis_tlast);
            beats_out++;
            room--;
        }
        edge();
        if (sent) {
            in.drop(1);
            beats_in++;
        }
        if (sent || !top.s_axis_tvalid) offer();
        top.m_axis_tready = room > 0 && !stall_out();
    }

    void reset(uint32_t count) {
        in = Beats();
        out = Beats();
        last.clear();
        last_head = 0;
        room = 0;
        top.aresetn = 0;
        top.s_axis_tvalid = top.m_axis_tready = 0;
        top.s_axi_awvalid = top.s_axi_wvalid = top.s_axi_bready = 0;
        top.s_axi_arvalid = top.s_axi_rready = 0;
        top.s_axi_awprot = top.s_axi_arprot = 0;
        std::memset(&top.s_axis_tkeep, STREAM_BITS == 32 ? 0x0F : 0xFF, sizeof top.s_axis_tkeep);
        top.s_axis_tlast = 0;
        for (uint32_t i = 0; i < count; i++) edge();
        top.aresetn = 1;
    }

    // Give up what is under way on both streams, and take what the core still shows.
    void drop() {
        in = Beats();
        top.s_axis_tvalid = 0;
        room = DISPLAYED;
        for (uint64_t i = 0; i < 2 * DISPLAYED; i++) tick();
        room = 0;
        top.m_axis_tready = 0;
        out = Beats();
        last.clear();
        last_head = 0;
    }

    // A read: address, then data, each as its handshake allows.
    int32_t read(uint32_t address, uint32_t* value, uint64_t limit) {
        const uint64_t end = cycles + limit;
        bool asking = true, answered = false;
        uint32_t response = 0;
        while (!answered) {
            if (cycles >= end) return NO_ANSWER;
            if (asking && !top.s_axi_arvalid && !stall_bus()) {
                top.s_axi_araddr = address;
                top.s_axi_arvalid = 1;
            }
            if (!top.s_axi_rready) top.s_axi_rready = !stall_bus();
            const bool asked = top.s_axi_arvalid && top.s_axi_arready;
            answered = top.s_axi_rvalid && top.s_axi_rready;
            *value = top.s_axi_rdata;
            response = top.s_axi_rresp;
            tick();
            if (asked) {
                asking = false;
                top.s_axi_arvalid = 0;
            }
        }
        top.s_axi_rready = 0;
        return response ? REFUSED : REACHED;
    }

    int32_t write(uint32_t address, uint32_t value, uint32_t strobe, uint64_t limit) {
        const uint64_t end = cycles + limit;
        bool address_left = true, data_left = true, answered = false;
        uint32_t response = 0;
        while (!answered) {
            if (cycles >= end) return NO_ANSWER;
            if (address_left && !top.s_axi_awvalid && !stall_bus()) {
                top.s_axi_awaddr = address;
                top.s_axi_awvalid = 1;
            }
            if (data_left && !top.s_axi_wvalid && !stall_bus()) {
                top.s_axi_wdata = value;
                top.s_axi_wstrb = strobe;
                top.s_axi_wvalid = 1;
            }
            if (!top.s_axi_bready) top.s_axi_bready = !stall_bus();
            const bool address_taken = top.s_axi_awvalid && top.s_axi_awready;
            const bool data_taken = top.s_axi_wvalid && top.s_axi_wready;
            answered = top.s_axi_bvalid && top.s_axi_bready;
            response = top.s_axi_bresp;
            tick();
            if (address_taken) {
                address_left = false;
                top.s_axi_awvalid = 0;
            }
            if (data_taken) {
                data_left = false;
                top.s_axi_wvalid = 0;
            }
        }
        top.s_axi_bready = 0;
        return response ? REFUSED : REACHED;
    }

    // Tick until everything `until` names holds, or for `limit` cycles.
    int32_t run(uint32_t until, uint64_t limit) {
        const uint64_t end = cycles + limit;
        for (;;) {
            while (((until & SENT) && in.count()) || ((until & RECEIVED) && room)) {
                if (cycles >= end) return NOT_YET;
                tick();
            }
            if (!(until & IDLE)) {
                if (until) return REACHED;
                while (cycles < end) tick();
                return NOT_YET;
            }
            uint32_t status = 0;
            const int32_t outcome = read(STATUS, &status, 1000);
            if (outcome < 0) return outcome;
            if (!(status & BUSY)) return REACHED;
            for (int i = 0; i < POLL; i++) {
                if (cycles >= end) return NOT_YET;
                tick();
            }
        }
    }
};

// One bank between its array and column `bank` of an image int32 [depth, banks].
template <typename Array>
void read_bank(const Array& array, int32_t* image, uint32_t banks, uint32_t depth, uint32_t bits) {
    const uint32_t unused = 32 - bits;
    for (uint32_t i = 0; i < depth; i++) {
        image[i * banks] = static_cast<int32_t>(static_cast<uint32_t>(array[i]) << unused) >> unused;
    }
}
template <typename Array>
void write_bank(Array& array, const int32_t* image, uint32_t banks, uint32_t depth, uint32_t bits) {
    const uint32_t mask = 0xFFFFFFFFu >> (32 - bits);
    for (uint32_t i = 0; i < depth; i++) array[i] = static_cast<uint32_t>(image[i * banks]) & mask;
}

uint64_t threshold(double probability) { return static_cast<uint64_t>(probability * 4294967296.0); }

}  // namespace

API Engine* insitu_new() { return new Engine(); }
API void insitu_delete(Engine* e) { delete e; }
API void insitu_reset(Engine* e, uint32_t cycles) { e->reset(cycles); }
API void insitu_drop(Engine* e) { e->drop(); }
API int32_t insitu_read(Engine* e, uint32_t address, uint32_t* value, uint64_t limit) {
    return e->read(address, value, limit);
}
API int32_t insitu_write(Engine* e, uint32_t address, uint32_t value, uint32_t strobe, uint64_t limit) {
    return e->write(address, value, strobe, limit);
}
API int32_t insitu_run(Engine* e, uint32_t until, uint64_t limit) { return e->run(until, limit); }
API void insitu_push(Engine* e, const void* beats, uint64_t count) {
    e->in.put(beats, count);
    if (!e->top.s_axis_tvalid) e->offer();
}
API void insitu_accept(Engine* e, uint64_t beats) { e->room += beats; }
API uint64_t insitu_pull(Engine* e, void* beats, uint8_t* last, uint64_t count) {
    if (count > e->out.count()) count = e->out.count();
    if (!count) return 0;
    std::memcpy(beats, e->out.front(), count * BEAT);
    if (last) std::memcpy(last, e->last.data() + e->last_head, count);
    e->out.drop(count);
    e->last_head += count;
    if (e->last_head == e->last.size()) {
        e->last.clear();
        e->last_head = 0;
    }
    return count;
}
API uint64_t insitu_count(const Engine* e, uint32_t what) {
    switch (what) {
        case 0: return e->cycles;
        case 1: return e->in.count();
        case 2: return e->out.count();
        case 3: return e->room;
        case 4: return e->beats_in;
        default: return e->beats_out;
    }
}
API void insitu_stall(Engine* e, uint32_t seed, double in, double out, double bus) {
    e->stall_in.threshold = threshold(in);
    e->stall_out.threshold = threshold(out);
    e->stall_bus.threshold = threshold(bus);
    e->stall_in.state = seed | 1;
    e->stall_out.state = (seed * 2654435761u) | 1;
    e->stall_bus.state = (seed * 2246822519u) | 1;
}
API int32_t insitu_memory(Engine* e, uint32_t memory, int32_t* image, uint32_t banks, uint32_t depth, int32_t put) {
    int32_t found = 0;
#define X(m, b, array, bits)                                                           \
    if (memory == (m)) {                                                               \
        found++;                                                                       \
        if (put)                                                                       \
            write_bank(e->top.rootp->array, image + (b), banks, depth, bits);          \
        else                                                                           \
            read_bank(e->top.rootp->array, image + (b), banks, depth, bits);           \
    }
    BANKS(X)
#undef X
    return found;
}
API void insitu_name(Engine* e, uint32_t place, const char* name) {
    e->names[place] = name;
    e->forget_shown();
}
API int32_t insitu_waves(Engine* e, const char* path) {
#if WAVES
    e->trace = std::make_unique<VerilatedVcdC>();
    e->top.trace(e->trace.get(), 99);
    e->trace->open(path);
    return e->trace->isOpen() ? 1 : 0;
#else
    (void)e;
    (void)path;
    return 0;
#endif
}
